// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads in patched functions: COUNT of them, each reading /proc files and sleeping a little, or only sleeping.
 *
 * In: COUNT and "read" or "sleep". Out: "ready" when all are there; then it runs until it is killed.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static atomic_int started;
static int reading;
static int crowd = 1;

static void *work(void *arg)
{
	static const char *const files[] = {
		"/proc/cmdline", "/proc/version", "/proc/meminfo", "/proc/uptime", "/proc/loadavg",
		"/proc/test_klp_set_nap", "/proc/test_klp_mod_target",
	};
	unsigned long turn = (unsigned long)arg;
	char text[4096];

	atomic_fetch_add(&started, 1);
	for (;;) {
		/* However many there are, about a thousand reads a second. */
		long ms = (100 + turn * 37 % 800) * crowd;
		struct timespec pause = { ms / 1000, ms % 1000 * 1000000 };

		if (reading) {
			/* Two of them are there at times only. */
			int file = open(files[turn % 7], O_RDONLY);

			if (file >= 0) {
				if (read(file, text, sizeof(text)) < 0)
					abort();
				close(file);
			}
			turn++;
		} else {
			pause.tv_sec = 1000000;
		}
		nanosleep(&pause, NULL);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int count = argc > 1 ? atoi(argv[1]) : 100;
	pthread_attr_t attributes;

	crowd += count / 500;
	reading = argc > 2 && !strcmp(argv[2], "read");
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 16384);
	for (long i = 0; i < count; i++) {
		pthread_t thread;

		if (pthread_create(&thread, &attributes, work, (void *)i))
			return 1;
	}
	while (atomic_load(&started) < count)
		usleep(10000);
	puts("ready");
	fflush(stdout);
	pause();
	return 0;
}
