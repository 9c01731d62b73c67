/* Which instruction sets this library was built for, and which this processor has. */
#include <stddef.h>
#include <string.h>

#include "native.h"

#if defined(__x86_64__)
extern const InstructionSet instruction_set_avx2, instruction_set_avx512;

#include <cpuid.h>

/* By cpuid itself: __builtin_cpu_supports needs run-time support that not every compiler brings.
 * The operating system must save the registers, too (xgetbv). */
static int has_features(unsigned ebx_of_7, uint64_t state) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
    const unsigned fma_and_osxsave = 1u << 12 | 1u << 27;
    if ((c & fma_and_osxsave) != fma_and_osxsave) return 0;
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & state) != state || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
    return (b & ebx_of_7) == ebx_of_7;
}

static int has_avx2(void) { /* BMI1, AVX2, BMI2; the upper halves of ymm registers */
    return has_features(1u << 3 | 1u << 5 | 1u << 8, 0x6);
}

static int has_avx512(void) { /* F, DQ, CD, BW, VL; masks and zmm registers */
    return has_avx2() && has_features(1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31, 0xe6);
}

static const struct {
    const InstructionSet *set;
    int (*is_supported)(void);
} sets[] = {{&instruction_set_avx512, has_avx512}, {&instruction_set_avx2, has_avx2}};
#else
extern const InstructionSet instruction_set_neon, instruction_set_neon_half;

static int always(void) { return 1; }

#if defined(__linux__)
#include <sys/auxv.h>
static int has_half(void) { /* half-precision arithmetic: scalars (9), vectors (10) */
    const unsigned long both = 1ul << 9 | 1ul << 10;
    return (getauxval(AT_HWCAP) & both) == both;
}
#else
static int has_half(void) { return 1; } /* every arm64 Mac */
#endif

static const struct {
    const InstructionSet *set;
    int (*is_supported)(void);
} sets[] = {{&instruction_set_neon, always}, {&instruction_set_neon_half, has_half}};
#endif

#define EXPORT __attribute__((visibility("default")))

/* The first set in float that processor and library share, or the one of that name; NULL if there is
 * none. */
EXPORT const InstructionSet *cosmicai_instruction_set(const char *name) {
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        if ((!name || !strcmp(name, sets[i].set->name)) && sets[i].is_supported())
            return sets[i].set;
    return NULL;
}

/* What the caller's declarations must agree with: bytes of Tensors, parts of the time. */
EXPORT void cosmicai_sizes(int32_t sizes[2]) {
    sizes[0] = sizeof(Tensors);
    sizes[1] = PARTS;
}

EXPORT const char *cosmicai_name(const InstructionSet *set) { return set->name; }

EXPORT Model *cosmicai_create(const InstructionSet *set, const Tensors *tensors, int threads) {
    return set->create(tensors, threads);
}

EXPORT void cosmicai_predict(const InstructionSet *set, Model *model, const float *image,
                             const float *magnitude, float *output, int64_t count) {
    set->predict(model, image, magnitude, output, count);
}

EXPORT void cosmicai_times(const InstructionSet *set, const Model *model, int64_t *nanoseconds) {
    set->times(model, nanoseconds);
}

EXPORT void cosmicai_destroy(const InstructionSet *set, Model *model) { set->destroy(model); }
