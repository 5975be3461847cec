#!/bin/busybox sh
# First process of the guest: make what a Linux host has, then hand over to the guest's Python.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup
/bin/busybox mount -t bpf bpf /sys/fs/bpf
/bin/busybox mount -t tmpfs run /run
/bin/busybox mount -t tmpfs tmp /tmp
echo started >/dev/ttyS1
while read -r module; do
	/bin/busybox insmod "/modules/$module.ko"
done </modules/order
export PATH=/usr/sbin:/usr/bin PYTHONPATH=/project:/site PYTHONDONTWRITEBYTECODE=1 HOME=/root LC_ALL=C.UTF-8
/usr/bin/python3.11 -S /guest/guest.py >>/dev/ttyS1
/bin/busybox poweroff -f
