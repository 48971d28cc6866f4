// SPDX-License-Identifier: GPL-2.0
/*
 * Users who are not root: what may they do to the module and see of it?
 *
 * Usage: nobody		with the module's file in DFLUSH_MODULE
 *
 * Each attempt is made twice: as an ordinary user, and as one who is root, with
 * every capability, of a user namespace of his own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "kselftest.h"

#define NOBODY 65534
#define CONTROL_DIRECTORY "/sys/kernel/deferred_flush"
#define VIEWS_DIRECTORY "/sys/kernel/debug/deferred_flush"

/* Opened by root, before anything is given up. */
static int module_file;

/* errno of an attempt, 0 if it succeeded. */
static int try_open(const char *path, int flags)
{
	int file = open(path, flags | O_CLOEXEC);

	if (file < 0)
		return errno;
	close(file);
	return 0;
}

static int open_for_writing(void)
{
	static const char *const names[] = { "mode", "cpus", "max_stale_ms", "state" };
	char path[128];
	int error;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), CONTROL_DIRECTORY "/%s", names[i]);
		error = try_open(path, O_WRONLY);
		/* Not every version has every file. */
		if (error != EACCES && !(error == ENOENT && !strcmp(names[i], "max_stale_ms")))
			return error;
	}
	return EACCES;
}

static int change_modes(void)
{
	return chmod(MODE_FILE, 0666) ? errno : 0;
}

static int read_views(void)
{
	int error = try_open(SUMMARY_FILE, O_RDONLY);

	return error == EACCES ? try_open(CPUS_FILE, O_RDONLY) : error;
}

static int list_views(void)
{
	return try_open(VIEWS_DIRECTORY, O_RDONLY | O_DIRECTORY);
}

static int unload(void)
{
	return syscall(SYS_delete_module, "deferred_flush", O_NONBLOCK) ? errno : 0;
}

static int load(void)
{
	return syscall(SYS_finit_module, module_file, "mode=0", 0) ? errno : 0;
}

static bool write_line(const char *path, const char *line)
{
	int file = open(path, O_WRONLY | O_CLOEXEC);
	bool good = file >= 0 && write(file, line, strlen(line)) == (ssize_t)strlen(line);

	close(file);
	return good;
}

/* Does not come back: the errno is the status. 200 if there are no such namespaces. */
static void __attribute__((noreturn)) attempt(int (*what)(void), bool in_namespace)
{
	if (setgroups(0, NULL) || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY))
		_exit(201);
	/* Else /proc/self still belongs to root. */
	prctl(PR_SET_DUMPABLE, 1);
	if (in_namespace && (unshare(CLONE_NEWUSER) || !write_line("/proc/self/setgroups", "deny") ||
			     !write_line("/proc/self/uid_map", "0 65534 1") ||
			     !write_line("/proc/self/gid_map", "0 65534 1") || getuid()))
		_exit(200);
	_exit(what());
}

static int outcome(int (*what)(void), bool in_namespace)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid < 0)
		fail("fork: %s", strerror(errno));
	if (!pid)
		attempt(what, in_namespace);
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		fail("the attempt died");
	return WEXITSTATUS(status);
}

int main(void)
{
	const char *path = getenv("DFLUSH_MODULE");
	static const struct {
		const char *name;
		int (*what)(void);
		int error;
	} attempts[] = {
		{ "write the control files", open_for_writing, EACCES },
		{ "change their permissions", change_modes, EPERM },
		{ "read the views", read_views, EACCES },
		{ "list the views", list_views, EACCES },
		{ "unload the module", unload, EPERM },
		{ "load the module", load, EPERM },
	};

	if (!path)
		fail("DFLUSH_MODULE is the module's file, and not set");
	module_file = open(path, O_RDONLY | O_CLOEXEC);
	if (module_file < 0)
		fail("%s: %s", path, strerror(errno));
	ksft_print_header();
	ksft_set_plan(2 * ARRAY_SIZE(attempts));
	for (size_t i = 0; i < 2 * ARRAY_SIZE(attempts); i++) {
		size_t number = i % ARRAY_SIZE(attempts);
		bool in_namespace = i >= ARRAY_SIZE(attempts);
		const char *who = in_namespace ? "root of a user namespace" : "nobody";
		int error = outcome(attempts[number].what, in_namespace);

		if (error == 201)
			fail("cannot become nobody");
		if (error == 200) {
			ksft_test_result_skip("nobody: %s cannot %s: there are no such namespaces\n",
					      who, attempts[number].name);
			continue;
		}
		if (error != attempts[number].error)
			ksft_print_msg("to %s ended with '%s' and not '%s'\n", attempts[number].name,
				       strerror(error), strerror(attempts[number].error));
		ksft_test_result(error == attempts[number].error, "nobody: %s cannot %s\n", who,
				 attempts[number].name);
	}
	ksft_finished();
}
