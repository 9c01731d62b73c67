/* The interface that cosmicai.engines.native_engine calls, and what each instruction set provides.
 *
 * All tensors are float32, as cosmicai.model.prepare names and shapes them; layers have a weight
 * (out, in) and a bias (out). They are read while a model is created, never afterwards.
 */
#ifndef COSMICAI_NATIVE_H
#define COSMICAI_NATIVE_H

#include <stdint.h>

#define INCEPTION_BLOCKS 5
#define MAGNITUDE_LAYERS 4
#define BANDS 5
#define SIDE 32
#define PATCH 8
#define GRID 4

typedef struct {
    const float *weight, *bias;
} Layer;

/* A 3x3 convolution (outputs, inputs, 3, 3), each output times its gain (NULL: 1). */
typedef struct {
    const float *kernel, *gain, *bias;
} Convolution;

typedef struct {
    Convolution first, second;
    Layer qkv, proj, fc1, fc2;
} BlockTensors;

/* conv5 of the last block is NULL. */
typedef struct {
    Layer point, conv3, conv5, pool;
} InceptionTensors;

typedef struct {
    int32_t depth, width, heads, mlp_width, conv_width, branch_width, magnitude_width, head_width;
    int32_t stem_width, outputs, inception_widths[INCEPTION_BLOCKS];
    float norm_eps;
    const float *patch_weight, *patch_position, *class_token;
    const BlockTensors *blocks;
    Layer stem;
    InceptionTensors inception_blocks[INCEPTION_BLOCKS];
    Layer encoder, inception, magnitude[MAGNITUDE_LAYERS], joint, output;
} Tensors;

/* Where the time goes, in nanoseconds summed over threads, in this order. Convolutions, qkv and proj,
 * MLP and other products are matrix products alone. */
enum { IN_TRANSFORMS, IN_CONVOLUTIONS, IN_ATTENTION, IN_QKV, IN_MLP, IN_GELU, IN_NORMS, IN_INCEPTION,
       IN_HEADS, IN_EMBEDDING, IN_OTHER_PRODUCTS, PARTS };

typedef struct Model Model;

typedef struct {
    const char *name;
    Model *(*create)(const Tensors *tensors, int threads);
    /* `output`: as many values per galaxy as the model has outputs. */
    void (*predict)(Model *model, const float *image, const float *magnitude, float *output,
                    int64_t count);
    void (*times)(const Model *model, int64_t *nanoseconds);
    void (*destroy)(Model *model);
} InstructionSet;

/* Run task(context, index, thread) for every index below `count` on so many threads, this one
 * included. Where a thread cannot be started the others do its work. */
void run_parallel(int threads, int64_t count, void (*task)(void *, int64_t, int), void *context);
void *allocate(int64_t floats); /* aligned, zeroed, in large pages where there are; or NULL */
void release(void *memory, int64_t floats);
int64_t now(void); /* nanoseconds */

/* One thread's time, part by part. */
typedef struct {
    int64_t spent[PARTS], since;
} Clock;

/* Add the time since the last lap to a part. */
static inline void lap(Clock *clock, int part) {
    int64_t t = now();
    clock->spent[part] += t - clock->since;
    clock->since = t;
}

#endif
