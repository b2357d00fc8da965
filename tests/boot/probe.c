// What the guest needs to see and busybox cannot do: system calls whose answer tells whether a patched kernel
// function still behaves. Usage: probe WHAT; exits 0 if the kernel answers as it should, else says what it got.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define SIOCUNIXFILE 0x89e0 /* include/uapi/linux/un.h: SIOCPROTOPRIVATE + 0 */

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	return 1;
}

/* getdents(2) must answer EFAULT when the buffer is not mapped: the exception table of filldir(). */
static int getdents(void)
{
	char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = open("/proc", O_RDONLY | O_DIRECTORY);

	if (fd < 0 || hole == MAP_FAILED)
		return fail("open /proc");
	if (syscall(SYS_getdents, fd, hole, 4096) != -1 || errno != EFAULT)
		return fail("getdents into a hole");
	return 0;
}

/* What is written to one end of a pty comes out of the other, also when it takes more than one buffer. */
static int pty(void)
{
	static char out[2000], in[2000];
	int master = posix_openpt(O_RDWR | O_NOCTTY), slave;
	size_t got = 0;

	if (master < 0 || grantpt(master) || unlockpt(master))
		return fail("posix_openpt");
	slave = open(ptsname(master), O_RDWR | O_NOCTTY);
	if (slave < 0)
		return fail("open the slave");
	memset(out, 'x', sizeof(out));
	if (write(slave, out, sizeof(out)) != sizeof(out))
		return fail("write");
	while (got < sizeof(in)) {
		ssize_t n = read(master, in + got, sizeof(in) - got);

		if (n <= 0)
			return fail("read");
		got += n;
	}
	errno = EIO;
	return memcmp(in, out, sizeof(in)) ? fail("compare") : 0;
}

/* SIOCUNIXFILE on a bound socket gives a file descriptor, on an unbound one ENOENT. */
static int unixfile(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX, .sun_path = "/tmp/probe-socket" };
	int bound = socket(AF_UNIX, SOCK_STREAM, 0), unbound = socket(AF_UNIX, SOCK_STREAM, 0), fd;

	unlink(addr.sun_path);
	if (bound < 0 || bind(bound, (struct sockaddr *)&addr, sizeof(addr)))
		return fail("bind");
	fd = ioctl(bound, SIOCUNIXFILE);
	if (fd < 0)
		return fail("SIOCUNIXFILE");
	if (ioctl(unbound, SIOCUNIXFILE) != -1 || errno != ENOENT)
		return fail("SIOCUNIXFILE, unbound");
	return 0;
}

/* A datagram with a record-route option reaches its socket on the loopback device. */
static int record_route(void)
{
	unsigned char options[8] = { 7 /* IPOPT_RR */, 7, 4, 0, 0, 0, 0, 0 };
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(7), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int to = socket(AF_INET, SOCK_DGRAM, 0), from = socket(AF_INET, SOCK_DGRAM, 0);
	char byte;

	if (bind(to, (struct sockaddr *)&addr, sizeof(addr)))
		return fail("bind");
	if (setsockopt(from, IPPROTO_IP, 4 /* IP_OPTIONS */, options, sizeof(options)))
		return fail("IP_OPTIONS");
	if (sendto(from, "x", 1, 0, (struct sockaddr *)&addr, sizeof(addr)) != 1)
		return fail("sendto");
	alarm(5);
	return recv(to, &byte, 1, 0) == 1 ? 0 : fail("recv");
}

/* A record-route pointer that is no multiple of four: accepted by the kernel as it is, refused by the fix. */
static int record_route_refused(void)
{
	unsigned char options[12] = { 7 /* IPOPT_RR */, 11, 6 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (setsockopt(fd, IPPROTO_IP, 4 /* IP_OPTIONS */, options, sizeof(options)) != -1 || errno != EINVAL)
		return fail("IP_OPTIONS with an unaligned pointer");
	return 0;
}

/* What a new virtual machine answers when its task state segment is to lie at an address. */
static int set_tss(unsigned long address)
{
	int kvm = open("/dev/kvm", O_RDWR), machine = ioctl(kvm, KVM_CREATE_VM, 0);

	return kvm < 0 || machine < 0 ? fail("KVM_CREATE_VM") : ioctl(machine, KVM_SET_TSS_ADDR, address);
}

static int kvm_tss(void)
{
	return set_tss(0x8000) ? fail("KVM_SET_TSS_ADDR") : 0;
}

/* One address that no kernel minds is refused by a patch of ours. */
static int kvm_tss_refused(void)
{
	errno = 0;
	return set_tss(0x4000) == -1 && errno == EBUSY ? 0 : fail("KVM_SET_TSS_ADDR");
}

int main(int argc, char **argv)
{
	static const struct { const char *name; int (*run)(void); } probes[] = {
		{ "getdents", getdents }, { "pty", pty }, { "unixfile", unixfile }, { "record-route", record_route },
		{ "record-route-refused", record_route_refused }, { "kvm-tss", kvm_tss },
		{ "kvm-tss-refused", kvm_tss_refused },
	};

	for (unsigned int i = 0; argc == 2 && i < sizeof(probes) / sizeof(probes[0]); i++)
		if (!strcmp(argv[1], probes[i].name))
			return probes[i].run();
	fprintf(stderr, "usage: probe NAME, one of:\n");
	for (unsigned int i = 0; i < sizeof(probes) / sizeof(probes[0]); i++)
		fprintf(stderr, "  %s\n", probes[i].name);
	return 2;
}
