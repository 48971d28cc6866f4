// SPDX-License-Identifier: GPL-2.0
/*
 * Addresses of the kernel's and the modules' symbols.
 *
 * There are 200,000, and the kernel takes long to print them. Its own never move,
 * so they are kept in a file for as long as the machine runs.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common.h"

#define KERNEL_SYMBOLS "/run/dflush-kallsyms"

static FILE *open_symbols(void)
{
	FILE *symbols = fopen("/proc/kallsyms", "re");

	if (!symbols)
		fail("/proc/kallsyms: %s", strerror(errno));
	return symbols;
}

/* Those of modules come last. */
static void keep_kernel_symbols(void)
{
	char name[64], line[512];
	FILE *symbols, *kept;

	snprintf(name, sizeof(name), KERNEL_SYMBOLS ".%d", getpid());
	kept = fopen(name, "we");
	if (!kept)
		return;
	symbols = open_symbols();
	while (fgets(line, sizeof(line), symbols) && !strchr(line, '['))
		fputs(line, kept);
	fclose(symbols);
	/* A half-written one would lack symbols. */
	if (ferror(kept) | fclose(kept) || rename(name, KERNEL_SYMBOLS))
		unlink(name);
}

static FILE *open_kernel_symbols(void)
{
	if (access(KERNEL_SYMBOLS, R_OK))
		keep_kernel_symbols();
	return fopen(KERNEL_SYMBOLS, "re");
}

void find_word(void)
{
	struct dflush_request set = { 0 };
	char name[128], line[512];
	FILE *symbols = open_symbols();

	while (fgets(line, sizeof(line), symbols)) {
		unsigned long long address;

		if (strstr(line, "[deferred_flush]") &&
		    sscanf(line, "%llx %*c %127s", &address, name) == 2 &&
		    !strcmp(name, "DEFERRED_FLUSH_CPU"))
			set.address = address;
	}
	fclose(symbols);
	if (!set.address)
		fail("the module has no symbol DEFERRED_FLUSH_CPU");
	request(DFLUSH_NR_SET_WORD, &set);
}

/* Returns how many are left; closes the file. */
static int find_in(FILE *symbols, const char *const *wanted, unsigned long *found, int count)
{
	char name[128], line[512];
	unsigned long long address;
	int left = 0;

	for (int i = 0; i < count; i++)
		left += !found[i];
	while (left && fgets(line, sizeof(line), symbols)) {
		for (int i = 0; i < count; i++) {
			if (found[i] || !strstr(line, wanted[i]) ||
			    sscanf(line, "%llx %*c %127s", &address, name) != 2 ||
			    strcmp(name, wanted[i]))
				continue;
			found[i] = address;
			left--;
		}
	}
	fclose(symbols);
	return left;
}

/* One pass for all of them. */
void find_symbols(const char *const *wanted, unsigned long *found, int count)
{
	FILE *symbols = open_kernel_symbols();

	memset(found, 0, count * sizeof(*found));
	if (symbols && !find_in(symbols, wanted, found, count))
		return;
	if (!find_in(open_symbols(), wanted, found, count))
		return;
	for (int i = 0; i < count; i++)
		if (!found[i])
			fail("the kernel has no symbol %s", wanted[i]);
}

unsigned long find_symbol(const char *symbol)
{
	unsigned long address;

	find_symbols(&symbol, &address, 1);
	return address;
}

bool kernel_has(const char *symbol)
{
	char name[128], line[512];
	FILE *symbols = open_symbols();
	bool found = false;

	while (!found && fgets(line, sizeof(line), symbols))
		found = sscanf(line, "%*x %*c %127s", name) == 1 && !strcmp(name, symbol);
	fclose(symbols);
	return found;
}
