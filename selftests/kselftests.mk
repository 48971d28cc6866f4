# SPDX-License-Identifier: GPL-2.0
#
# Copies the kernel's own ftrace and livepatch selftests, and the samples of direct
# calls that they use, unmodified, out of KDIR and builds what they need into OUT.
# Run by selftests/kselftests.sh.
#
#	make -f kselftests.mk KDIR=/usr/src/linux-... OUT=/absolute/path

KDIR ?= /lib/modules/$(shell uname -r)/build
OUT ?= $(CURDIR)/../out/kselftests
SOURCE := $(KDIR)/tools/testing/selftests
SAMPLES := ftrace-direct ftrace-direct-too

.PHONY: all copy
all: $(OUT)/ftrace/poll $(OUT)/livepatch/test_klp-call_getpid
	$(MAKE) -C $(KDIR) M=$(OUT)/livepatch/test_modules modules
	$(MAKE) -C $(KDIR) M=$(OUT)/samples modules

copy:
	rm -rf $(OUT)
	mkdir -p $(OUT)/samples
	cp -r $(SOURCE)/ftrace $(SOURCE)/livepatch $(SOURCE)/kselftest $(OUT)
	cp $(SAMPLES:%=$(KDIR)/samples/ftrace/%.c) $(OUT)/samples
	echo "obj-m := $(SAMPLES:%=%.o)" >$(OUT)/samples/Kbuild

$(OUT)/ftrace/poll $(OUT)/livepatch/test_klp-call_getpid: %: copy
	$(CC) -O2 -Wall -D_GNU_SOURCE -I$(KDIR)/usr/include -I$(SOURCE) -o $@ $@.c
