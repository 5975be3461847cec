"""A stand-in for `ollama serve` 0.33, of which no package exists: same local API, same outgoing connections.

Inference is real, by a llama-server child. What goes out follows ollama's source at commit fb3076099:

start   GET ollama.com/api/experimental/model-recommendations (again every 4 h), and in parallel GET
        /api/tags, then POST /api/show for each cloud model by 4 workers; all signed with an ed25519 key
pull    the manifest from registry.ollama.ai; each layer is a HEAD, then a GET that is redirected to the
        blob host, then up to 16 ranged GETs at once
cloud   a model named *-cloud or *:cloud is run elsewhere: the prompt goes to ollama.com, on whatever
        connection of the one shared pool (90 s idle) is open: there may be no connect during "inference"
names   for a name of two or more addresses a UDP connect() to port 53 of each, with nothing sent (Go,
        net/addrselect.go)

Unlike the original it is Python, speaks HTTP/1.1 only, and cannot push, create, embed or sign in.
"""
