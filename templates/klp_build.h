/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a source patch declares to klp-build: system states and callbacks of the livepatch. klp-build puts this file
 * beside the kernel's own headers while it compiles the patched side; what the macros declare goes into the module's
 * tables and not into its code.
 *
 *	#include <linux/klp_build.h>
 *
 *	KLP_STATE(7, 2);
 *	KLP_STATE(8, 1, .pre_patch = widen, .post_unpatch = narrow);
 *	KLP_SHADOW_STATE(9, 1, .shadow_dtor = drop);
 *
 * State 7 has version 2; state 8 has callbacks of its own; state 9 is a shadow variable of that id, freed with the
 * state. Callbacks and shadow variables of states need a kernel whose struct klp_state has them.
 */
#ifndef _LINUX_KLP_BUILD_H
#define _LINUX_KLP_BUILD_H

#include <linux/livepatch.h>

struct klp_patch;
struct klp_state;

/* Read by klp-build (src/emit/states.rs), by no kernel: 64 bits each, so that there is no padding. */
struct klp_build_state {
	u64 id;
	u64 version;
	u64 is_shadow;
	int (*pre_patch)(struct klp_patch *patch, struct klp_state *state);
	void (*post_patch)(struct klp_patch *patch, struct klp_state *state);
	void (*pre_unpatch)(struct klp_patch *patch, struct klp_state *state);
	void (*post_unpatch)(struct klp_patch *patch, struct klp_state *state);
	void (*shadow_dtor)(void *obj, void *shadow_data);
};

#define KLP_BUILD_STATE(_id, _version, _shadow, ...)				\
	static const struct klp_build_state __used				\
		__section(".discard.klp_states") __aligned(8)			\
		__UNIQUE_ID(klp_state) = {					\
			.id = (_id), .version = (_version),			\
			.is_shadow = (_shadow), __VA_ARGS__			\
		}

#define KLP_STATE(id, version, ...)						\
	KLP_BUILD_STATE(id, version, 0, ##__VA_ARGS__)
#define KLP_SHADOW_STATE(id, version, ...)					\
	KLP_BUILD_STATE(id, version, 1, ##__VA_ARGS__)

/* Callbacks of an object; kernels since 6.19 have these in <linux/livepatch_helpers.h>. */
#if __has_include(<linux/livepatch_helpers.h>)
#include <linux/livepatch_helpers.h>
#else
#ifdef MODULE
#define KLP_BUILD_OBJECT __KBUILD_MODNAME
#else
#define KLP_BUILD_OBJECT vmlinux
#endif

#define KLP_BUILD_CALLBACK(_result, _kind, _func)				\
	_result (*__PASTE(__klp_##_kind##_callback_, KLP_BUILD_OBJECT))		\
		(struct klp_object *) __used					\
		__section(".discard.klp_callback_ptrs") = _func

#define KLP_PRE_PATCH_CALLBACK(func) KLP_BUILD_CALLBACK(int, pre_patch, func)
#define KLP_POST_PATCH_CALLBACK(func) KLP_BUILD_CALLBACK(void, post_patch, func)
#define KLP_PRE_UNPATCH_CALLBACK(func) KLP_BUILD_CALLBACK(void, pre_unpatch, func)
#define KLP_POST_UNPATCH_CALLBACK(func) KLP_BUILD_CALLBACK(void, post_unpatch, func)
#endif

#endif /* _LINUX_KLP_BUILD_H */
