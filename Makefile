# SPDX-License-Identifier: GPL-2.0
#
# 'make help' lists the targets. Everything that they write lies under out/.

MODULE := deferred_flush
KDIR ?= /lib/modules/$(shell uname -r)/build
OUT ?= out
FLAVOUR ?= amd64

# Test-only builds; see Kbuild and Documentation/testing.rst.
VARIANTS := no_entry_flush receiver_on_tracepoint slow_sender no_recheck no_first_check \
	flush_before_exchange slow_exchange no_drain no_watch blind_watch no_breakpoint_check slow_poke hasty_resume no_block_recheck \
	idle_is_quiet nmi_is_quiet guest_is_quiet no_nmi_flush nmi_pending_only nmi_not_first \
	any_caller any_range no_memory_block no_mce_drain no_stale_timer \
	no_off_drain no_second_drain no_offline_reset unconditional
VARIANTS += lenient_input leaky_input
VARIANTS += forgets_stuck kgdb_waits no_forced_off ownerless_views late_files open_to_all \
	any_machine no_tracer_check
VARIANTS += torn_recent slow_recent
# Only ever built to be refused by scripts/check-noinstr.
REFUSED_VARIANTS := noinstr_leak panic_path

override OUT := $(abspath $(OUT))
SOURCE := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))

# $(call kbuild,DIRECTORY,ARGUMENTS): builds the module into DIRECTORY.
define kbuild
	@mkdir -p $(1)
	$(MAKE) -C $(KDIR) M=$(SOURCE) MO=$(1) $(2) modules
endef

.PHONY: all module
all: module ## build the module for KDIR (default: the running kernel) into out/module/
module:
	@test -e $(KDIR)/Makefile || { echo "error: no kernel build directory at $(KDIR); set KDIR, or use 'make demo', which brings its own" >&2; exit 1; }
	$(call kbuild,$(OUT)/module)

.PHONY: variants $(foreach v,$(VARIANTS) $(REFUSED_VARIANTS),variant-$(v))
variants: $(VARIANTS:%=variant-%)
$(foreach v,$(VARIANTS) $(REFUSED_VARIANTS),variant-$(v)): variant-%:
	$(call kbuild,$(OUT)/variants/$*,VARIANT=$*)

.PHONY: selftests
selftests:
	$(MAKE) -C selftests KDIR=$(KDIR) OUT=$(OUT)/selftests

.PHONY: kselftests
kselftests:
	$(MAKE) -f selftests/kselftests.mk KDIR=$(KDIR) OUT=$(OUT)/kselftests

.PHONY: demo
demo: ## set everything up and show the interrupts before and after, in a VM
	scripts/demo

.PHONY: test
test: ## run every test: on the host and in VMs; ends with a count
	scripts/test

.PHONY: stress
MINUTES ?= 10
stress: ## everything at once for MINUTES minutes (default 10); ends with a table and a count
	scripts/stress $(MINUTES)

.PHONY: test-debug
test-debug: ## run the tests on two debug kernels, which it builds if need be
	scripts/test-debug $(BRIEF)

.PHONY: audit-dynamic
audit-dynamic: ## watch from the emulator what is used before a flush that is owed, for MINUTES minutes
	scripts/audit-dynamic $(MINUTES)

.PHONY: bench
bench: ## count instructions: a system call's round trip, a sender's flush
	scripts/bench

.PHONY: prove
prove: ## the protocol under the kernel's memory model and under loom; ends with a count
	scripts/prove

.PHONY: audit
audit: ## what the kernel touches before the deferred flush, from its image; the order in the built module
	scripts/audit

.PHONY: check
check: ## formatting, lints, and the proof that the receiver stays in noinstr text
	scripts/check

# The lints of the kernel; a warning fails the build in scripts/check.
.PHONY: clippy
clippy:
	$(call kbuild,$(OUT)/clippy,CLIPPY=1)

.PHONY: env
env: ## print BUILDROOT, KDIR, KIMAGE and KRELEASE as shell assignments
	@scripts/kernel --env --flavour $(FLAVOUR)

# The variants are never built into out/module, so they cannot be installed.
.PHONY: install uninstall
INSTALL_RELEASE = $(shell cat $(KDIR)/include/config/kernel.release 2>/dev/null)
INSTALL_DEPMOD = depmod $(if $(INSTALL_MOD_PATH),--basedir $(INSTALL_MOD_PATH)) $(INSTALL_RELEASE)

install: module ## install the module for KDIR's kernel
	$(MAKE) -C $(KDIR) M=$(SOURCE) MO=$(OUT)/module modules_install
	$(INSTALL_DEPMOD)

uninstall: ## remove the installed module
	rm -f $(INSTALL_MOD_PATH)/lib/modules/$(INSTALL_RELEASE)/updates/$(MODULE).ko*
	$(INSTALL_DEPMOD)

.PHONY: deb test-packages
deb: ## build the Debian packages deferred-flush-dkms and dflush into out/deb/
	scripts/deb

test-packages: ## install, upgrade, remove and purge them in a Debian system in a VM
	scripts/test-packages

.PHONY: clean
clean: ## remove out/
	rm -rf $(OUT)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(lastword $(MAKEFILE_LIST)) | expand -t 16
