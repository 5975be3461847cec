"""What a target may do: rules, their compiled tables, enforcement in the kernel."""
