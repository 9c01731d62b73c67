/* The native engine without Python, to be run under an emulator:
 *
 *   predict FILE INSTRUCTION_SET THREADS FIRST
 *
 * predicts the first galaxies apart from the others. FILE holds a model and
 * galaxies as tests/functional/test_native_arm64.py writes them; what is predicted is written to
 * standard output as float32. It exits with 3 if there is no such instruction set. */
#include <stdio.h>
#include <stdlib.h>

#include "native.h"

const InstructionSet *cosmicai_instruction_set(const char *name);

static FILE *file;

static void read_values(void *to, size_t size, size_t count) {
    if (fread(to, size, count, file) == count) return;
    fprintf(stderr, "predict: the file is too short\n");
    exit(2);
}

/* A tensor is its number of values (int64, 0 for an absent one), then these. */
static const float *tensor(void) {
    int64_t count;
    read_values(&count, sizeof count, 1);
    if (count == 0) return NULL;
    float *values = malloc(sizeof(float) * count);
    read_values(values, sizeof(float), count);
    return values;
}

static Layer layer(void) {
    const float *weight = tensor();
    return (Layer){weight, tensor()};
}

static Convolution convolution(void) {
    const float *kernel = tensor(), *gain = tensor();
    return (Convolution){kernel, gain, tensor()};
}

/* In the order of `Tensors`. */
static Tensors model(void) {
    Tensors t;
    read_values(&t.depth, sizeof(int32_t), 10 + INCEPTION_BLOCKS);
    read_values(&t.norm_eps, sizeof(float), 1);
    t.patch_weight = tensor(), t.patch_position = tensor(), t.class_token = tensor();
    BlockTensors *blocks = malloc(sizeof *blocks * t.depth);
    for (int i = 0; i < t.depth; i++) {
        blocks[i].first = convolution(), blocks[i].second = convolution();
        blocks[i].qkv = layer(), blocks[i].proj = layer();
        blocks[i].fc1 = layer(), blocks[i].fc2 = layer();
    }
    t.blocks = blocks;
    t.stem = layer();
    for (int i = 0; i < INCEPTION_BLOCKS; i++) {
        t.inception_blocks[i].point = layer(), t.inception_blocks[i].conv3 = layer();
        t.inception_blocks[i].conv5 = layer(), t.inception_blocks[i].pool = layer();
    }
    t.encoder = layer(), t.inception = layer();
    for (int i = 0; i < MAGNITUDE_LAYERS; i++) t.magnitude[i] = layer();
    t.joint = layer(), t.output = layer();
    return t;
}

int main(int count, char **arguments) {
    if (count != 5 || !(file = fopen(arguments[1], "rb"))) {
        fprintf(stderr, "usage: predict FILE INSTRUCTION_SET THREADS FIRST\n");
        return 2;
    }
    const InstructionSet *set = cosmicai_instruction_set(arguments[2]);
    if (!set) return 3;
    Tensors tensors = model();
    int64_t galaxies, first = atoi(arguments[4]);
    read_values(&galaxies, sizeof galaxies, 1);
    const float *image = tensor(), *magnitude = tensor();
    Model *created = set->create(&tensors, atoi(arguments[3]));
    float *output = malloc(sizeof(float) * galaxies * tensors.outputs);
    if (!created) return 1;
    set->predict(created, image, magnitude, output, first);
    set->predict(created, image + first * BANDS * SIDE * SIDE, magnitude + first * BANDS,
                 output + first * tensors.outputs, galaxies - first);
    fwrite(output, sizeof(float), galaxies * tensors.outputs, stdout);
    set->destroy(created);
    return 0;
}
