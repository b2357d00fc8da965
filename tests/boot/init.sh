#!/bin/busybox sh
# The guest's init: mounts what scripts expect, runs /script with its output on the second serial line, and ends.
/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /etc /modules
/bin/busybox --install -s /bin
export PATH=/bin:/sbin HOME=/ LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null || { mknod /dev/null c 1 3; mknod /dev/ttyS1 c 4 65; mknod /dev/kmsg c 1 11; }
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs tmpfs /tmp 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
ip link set lo up 2>/dev/null
stty -F /dev/ttyS1 raw -echo 2>/dev/null
exec < /dev/null > /dev/ttyS1 2>&1
sh /script
echo "@@exit $?"
# Closing the line waits until everything is out. QEMU runs with -no-reboot: a restart ends it.
exec > /dev/null 2>&1
reboot -f
