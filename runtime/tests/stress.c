// SPDX-License-Identifier: GPL-2.0-only
/*
 * Livepatches of two sets enabled, replaced, reversed and disabled, with patched modules coming and going underneath.
 *
 * In: CYCLES and a SEED; modules in test_modules/. Out: what was done, or the first thing that was wrong and status 1. Hard
 * because most requests meet a transition: -EBUSY is waited out, and where a request may come too late both outcomes are
 * right. A program, because a shell takes longer for each request than the kernel does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KLP "/sys/kernel/livepatch"
#define PATIENCE 300 /* seconds for anything to happen */

/* By set: two versions, of which the second replaces the first. */
static const char *const patches[2][2] = {
	{ "test_klp_set_s1", "test_klp_set_s2" },
	{ "test_klp_set_s3", "test_klp_set_s4" },
};
static const char *const targets[] = { "test_klp_set_nap", "test_klp_mod_target" };

static unsigned long loaded, reversed, waited, toggled;
static unsigned long long state;

static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	exit(1);
}

static unsigned int chance(unsigned int below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (state >> 32) % below;
}

/* Called between two looks at something that is to happen. */
static void wait_for(const char *what, const char *name)
{
	static const char *last_what, *last_name;
	static time_t since;
	struct timespec pause = { 0, 2000000 }, now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (what != last_what || name != last_name)
		since = now.tv_sec;
	last_what = what;
	last_name = name;
	if (now.tv_sec - since > PATIENCE)
		die("%s: %s: not within %d s", name, what, PATIENCE);
	waited++;
	nanosleep(&pause, NULL);
}

static int is_there(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), KLP "/%s", name);
	return !access(path, F_OK);
}

/* The text of a file, empty if there is none. */
static const char *text_of(const char *path)
{
	static char text[4096];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	text[n < 0 ? 0 : n] = 0;
	return text;
}

static int is_moving(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), KLP "/%s/transition", name);
	return *text_of(path) == '1';
}

/* No transition is under way. */
static void settle(void)
{
	for (int set = 0; set < 2; set++)
		for (int version = 0; version < 2; version++)
			while (is_moving(patches[set][version]))
				wait_for("a transition ends", patches[set][version]);
}

/* Asks for a patch to be disabled ("0") or for the reverse; returns errno. */
static int request(const char *name, const char *what)
{
	char path[256];
	int fd, error = 0;

	snprintf(path, sizeof(path), KLP "/%s/enabled", name);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return errno;
	if (write(fd, what, 1) < 0)
		error = errno;
	close(fd);
	return error;
}

static int try_load(const char *name)
{
	char path[256];
	int fd, error;

	snprintf(path, sizeof(path), "test_modules/%s.ko", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		die("%s: no such module", name);
	error = syscall(SYS_finit_module, fd, "", 0) ? errno : 0;
	close(fd);
	return error;
}

static void load(const char *name)
{
	int error;

	while ((error = try_load(name))) {
		if (error != EBUSY)
			die("%s: failed to load: %s", name, strerror(error));
		wait_for("it can be loaded", name);
	}
	loaded++;
}

static void unload(const char *name)
{
	while (syscall(SYS_delete_module, name, O_NONBLOCK)) {
		if (errno == ENOENT)
			return;
		if (errno != EBUSY && errno != EAGAIN)
			die("%s: failed to unload: %s", name, strerror(errno));
		wait_for("it can be unloaded", name);
	}
}

/* A patched module comes or goes, whatever else is on. */
static void toggle(void)
{
	static int there[2];
	int i = chance(4);

	if (i > 1)
		return;
	if (there[i])
		unload(targets[i]);
	else
		load(targets[i]);
	there[i] = !there[i];
	toggled++;
}

static void enable(const char *name)
{
	load(name);
	toggle();
	if (chance(2)) {
		if (!request(name, "0"))
			reversed++;
		if (chance(2))
			toggle();
		if (chance(2) && !request(name, "1"))
			reversed++;
	}
	if (chance(2))
		settle();
}

static void disable(const char *name)
{
	int error;

	while (is_there(name)) {
		error = request(name, "0");
		if (error && error != EBUSY && error != EINVAL && error != ENOENT && error != ENODEV)
			die("%s: failed to disable: %s", name, strerror(error));
		wait_for("it is disabled", name);
	}
}

/* Whether a file shows what the enabled patches say. */
static int is_as_it_should(const char *file, const char *const *candidates)
{
	const char *text = text_of(file);
	int patched = 0;

	for (int i = 0; i < 2; i++)
		if (candidates[i] && is_there(candidates[i])) {
			patched = 1;
			if (!strncmp(text, candidates[i], strlen(candidates[i])))
				return 1;
		}
	return !patched && strncmp(text, "test_klp_set_s", 14);
}

/* Patches that are out of use leave sysfs a little later. */
static void check(const char *file, const char *const *candidates)
{
	while (!is_as_it_should(file, candidates))
		wait_for("it shows what is enabled", file);
}

static void cycle(void)
{
	const char *const version[] = { patches[0][0], NULL }, *const meminfo[] = { patches[1][0], NULL };
	int first = chance(2);

	enable(patches[first][0]);
	enable(patches[!first][0]);
	toggle();
	first = chance(2);
	enable(patches[first][1]);
	enable(patches[!first][1]);
	settle();
	/* A replaced patch leaves sysfs a little after the transition. */
	for (int set = 0; set < 2; set++)
		while (is_there(patches[set][0]) && is_there(patches[set][1]))
			wait_for("it is replaced", patches[set][0]);
	check("/proc/cmdline", patches[0]);
	check("/proc/version", version);
	check("/proc/uptime", patches[1]);
	check("/proc/meminfo", meminfo);
	first = chance(2);
	for (int i = 0; i < 4; i++) {
		disable(patches[(i ^ first) & 1][i >> 1]);
		toggle();
	}
	for (int i = 0; i < 4; i++)
		unload(patches[i & 1][i >> 1]);
}

int main(int argc, char **argv)
{
	long cycles = argc > 1 ? atol(argv[1]) : 1;

	state = (argc > 2 ? strtoull(argv[2], NULL, 0) : 1) * 0x9e3779b97f4a7c15ull | 1;
	for (long i = 0; i < cycles; i++) {
		cycle();
		if (i % 10 == 9 || i == cycles - 1) {
			printf("%ld cycles: %lu loads, %lu requests while moving or on, %lu modules under them, %lu waits\n",
			       i + 1, loaded, reversed, toggled, waited);
			fflush(stdout);
		}
	}
	for (int i = 0; i < 2; i++)
		unload(targets[i]);
	return 0;
}
