/* The model: packed once, then predicted in chunks of galaxies, each by one thread.
 *
 * A chunk's intermediate values stay in cache while the weights stream past once. Threads share
 * nothing but the weights, and every galaxy's values are summed in an order of their own, so the
 * number of threads and the company of a galaxy do not change its bits.
 */
#include "native.h"

#include <pthread.h>
#include <stdlib.h>

#include "attention.h"
#include "inception.h"
#include "large.h"
#include "winograd.h"

#ifndef CHUNK
#define CHUNK 64 /* galaxies: products are as fast as with 128, and the buffers half as large */
#endif
#ifndef HIDDEN
#define HIDDEN 192 /* hidden channels of the convolutions at a time */
#endif
#define BLOCK 8 /* galaxies whose attention and MLP are computed together: 136 rows */

typedef struct {
    float *weight, *bias;
    int inputs, outputs;
} Packed;

typedef struct {
    float *convolutions; /* by HIDDEN channels: 36 matrices of the first, then of the second */
    float *first_bias, *second_bias;
    Packed qkv, proj, fc1, fc2;
} Block;

/* One thread's buffers. */
typedef struct {
    float *memory, *tokens, *points, *sums, *hidden, *normal, *qkv, *attended, *mlp, *scratch;
    float *patches, *features, *layer, *maps[2], *stem;
    int64_t size;
    Clock clock;
} Buffers;

struct Model {
    int depth, width, heads, head, mlp_width, conv_width, hidden, panels, threads;
    int branch_width, magnitude_width, head_width, stem_width, outputs;
    int row, point, hidden_point; /* floats between tokens, points, hidden points */
    float norm_eps;
    size_t panel_size, first_size, second_size;
    Packed patch, encoder, inception, magnitude[MAGNITUDE_LAYERS], joint, output, stem;
    float *position, *class_token;
    Block *blocks;
    InceptionBlock inception_blocks[INCEPTION_BLOCKS];
    float *memory;
    int64_t used, size;
    int out_of_memory; /* while packing */
    Buffers *buffers;
    pthread_mutex_t lock; /* one prediction at a time: the buffers are shared */
    const Tensors *tensors; /* while being created */
};

/* Take floats from the model's memory; without memory yet, only count them. */
static float *take(Model *m, size_t floats) {
    float *p = m->memory ? m->memory + m->used : NULL;
    m->used += (int64_t)(floats + 15) / 16 * 16;
    return p;
}

static float *take_bias(Model *m, const float *bias, int count) {
    float *p = take(m, packed_columns(count));
    if (p && bias) memcpy(p, bias, sizeof(float) * count);
    return p;
}

static Packed take_layer(Model *m, Layer layer, int inputs, int outputs) {
    Packed p = {take(m, packed_size(inputs, outputs)), NULL, inputs, outputs};
    p.bias = take_bias(m, layer.bias, outputs);
    if (p.weight) pack(layer.weight, 1, inputs, inputs, outputs, p.weight);
    return p;
}

static void pack_large(Model *m, const float *weight, int inputs, int outputs, float *to) {
    size_t values = packed_size(inputs, outputs);
    float *packed = begin_large(to, 1, values);
    if (!packed) {
        m->out_of_memory = 1;
        return;
    }
    pack(weight, 1, inputs, inputs, outputs, packed);
    end_large(packed, 1, values, to);
}

static Packed take_large(Model *m, Layer layer, int inputs, int outputs) {
    Packed p = {take(m, large_size(inputs, outputs)), NULL, inputs, outputs};
    p.bias = take_bias(m, layer.bias, outputs);
    if (p.weight) pack_large(m, layer.weight, inputs, outputs, p.weight);
    return p;
}

/* Heads are padded to whole vectors: `padded` values each, of which `head` are real. */
static Packed take_heads(Model *m, Layer layer, int parts, int pack_outputs) {
    int head = m->width / m->heads, groups = parts * m->heads, padded = groups * m->head;
    int inputs = pack_outputs ? m->width : padded, outputs = pack_outputs ? padded : m->width;
    Packed p = {take(m, large_size(inputs, outputs)), take(m, packed_columns(outputs)), inputs,
                outputs};
    if (!p.weight) return p;
    float *wide = calloc((size_t)inputs * outputs, sizeof(float));
    if (!wide) {
        m->out_of_memory = 1;
        return p;
    }
    for (int g = 0; g < groups; g++)
        for (int d = 0; d < head; d++)
            for (int i = 0; i < m->width; i++)
                if (pack_outputs)
                    wide[(size_t)(g * m->head + d) * inputs + i] =
                        layer.weight[(size_t)(g * head + d) * m->width + i];
                else
                    wide[(size_t)i * inputs + g * m->head + d] =
                        layer.weight[(size_t)i * m->width + g * head + d];
    pack_large(m, wide, inputs, outputs, p.weight);
    free(wide);
    if (pack_outputs)
        for (int g = 0; g < groups; g++)
            memcpy(p.bias + g * m->head, layer.bias + g * head, sizeof(float) * head);
    else
        memcpy(p.bias, layer.bias, sizeof(float) * outputs);
    return p;
}

/* A k x k kernel (width, inputs, k, k) as k packed matrices (k inputs, width). */
static float *take_kernel(Model *m, const float *kernel, int inputs, int width, int k) {
    size_t row_size = packed_size(k * inputs, width);
    float *packed = take(m, row_size * k);
    if (!packed) return NULL;
    float *row = malloc(sizeof(float) * k * inputs * width);
    if (!row) {
        m->out_of_memory = 1;
        return packed;
    }
    for (int y = 0; y < k; y++) {
        for (int o = 0; o < width; o++)
            for (int i = 0; i < inputs; i++)
                for (int x = 0; x < k; x++)
                    row[o * k * inputs + x * inputs + i] = kernel[((o * inputs + i) * k + y) * k + x];
        pack(row, 1, k * inputs, k * inputs, width, packed + y * row_size);
    }
    free(row);
    return packed;
}

static void take_inception(Model *m, const Tensors *t) {
    int inputs = BANDS, source = t->stem_width;
    for (int b = 0; b < INCEPTION_BLOCKS; b++) {
        const InceptionTensors *from = &t->inception_blocks[b];
        int width = t->inception_widths[b], branches = b == INCEPTION_BLOCKS - 1 ? 2 : 3;
        Packed point = take_layer(m, from->point, inputs, branches * width);
        Packed pool = take_layer(m, from->pool, source, width);
        InceptionBlock *to = &m->inception_blocks[b];
        *to = (InceptionBlock){inputs, width, branches, point.weight, point.bias, {0}, {0},
                               pool.weight, pool.bias};
        const Layer layers[2] = {from->conv3, from->conv5};
        for (int i = 0; i < branches - 1; i++) {
            to->conv[i] = take_kernel(m, layers[i].weight, width, width, 3 + 2 * i);
            to->conv_bias[i] = take_bias(m, layers[i].bias, width);
        }
        inputs = source = 4 * width;
    }
}

/* Everything the model holds but the content of the Winograd matrices. */
static void take_all(Model *m, const Tensors *t) {
    int w = m->width;
    m->patch = take_layer(m, (Layer){t->patch_weight, NULL}, BANDS * PATCH * PATCH, w);
    m->position = take(m, (size_t)PATCHES * m->row);
    m->class_token = take(m, m->row);
    if (m->memory) {
        for (int i = 0; i < PATCHES; i++)
            memcpy(m->position + i * m->row, t->patch_position + i * w, sizeof(float) * w);
        memcpy(m->class_token, t->class_token, sizeof(float) * w);
    }
    for (int b = 0; b < m->depth; b++) {
        const BlockTensors *from = &t->blocks[b];
        Block *to = &m->blocks[b];
        to->convolutions = take(m, m->panel_size * m->panels);
        to->first_bias = take(m, (size_t)m->hidden * m->panels);
        if (to->first_bias)
            memcpy(to->first_bias, from->first.bias, sizeof(float) * m->conv_width);
        to->second_bias = take_bias(m, from->second.bias, w);
        to->qkv = take_heads(m, from->qkv, 3, 1);
        to->proj = take_heads(m, from->proj, 1, 0);
        to->fc1 = take_large(m, from->fc1, w, m->mlp_width);
        to->fc2 = take_large(m, from->fc2, m->mlp_width, w);
    }
    m->stem = take_layer(m, t->stem, BANDS, t->stem_width);
    take_inception(m, t);
    int concat = 2 * m->branch_width + m->magnitude_width;
    m->encoder = take_layer(m, t->encoder, w, m->branch_width);
    m->inception = take_layer(
        m, t->inception, 3 * t->inception_widths[INCEPTION_BLOCKS - 1] * GRID * GRID, m->branch_width);
    for (int i = 0; i < MAGNITUDE_LAYERS; i++)
        m->magnitude[i] = take_layer(m, t->magnitude[i], i ? m->magnitude_width : BANDS,
                                     m->magnitude_width);
    m->joint = take_layer(m, t->joint, concat, m->head_width);
    m->output = take_layer(m, t->output, m->head_width, m->outputs);
}

/* One panel of hidden channels of one block's convolutions. */
static void pack_convolutions(void *context, int64_t index, int thread) {
    (void)thread;
    Model *m = context;
    int b = (int)(index / m->panels), p = (int)(index % m->panels);
    const BlockTensors *from = &m->tensors->blocks[b];
    float *first = m->blocks[b].convolutions + p * m->panel_size;
    float *second = first + POINTS * m->first_size;
    size_t first_values = packed_size(m->width, m->hidden);
    size_t second_values = packed_size(m->hidden, m->width);
    float *packed = begin_large(first, POINTS, first_values);
    if (packed) {
        pack_points(from->first.kernel, from->first.gain, m->width, m->conv_width, 0, m->width,
                    p * m->hidden, m->hidden, packed, first_values);
        end_large(packed, POINTS, first_values, first);
        packed = begin_large(second, POINTS, second_values);
    }
    if (packed) {
        pack_points(from->second.kernel, from->second.gain, m->conv_width, m->width, p * m->hidden,
                    m->hidden, 0, m->width, packed, second_values);
        end_large(packed, POINTS, second_values, second);
    } else {
        __atomic_store_n(&m->out_of_memory, 1, __ATOMIC_RELAXED);
    }
}

static int feature_width(const Model *m) {
    return 2 * m->branch_width + packed_columns(m->magnitude_width) + 2 * LANES;
}

/* Lay a thread's buffers out in its memory; without memory yet, only count. */
static void lay_out(const Model *m, Buffers *b) {
    int most = 0;
    int sizes[] = {m->branch_width, m->magnitude_width, m->head_width, m->outputs};
    for (int i = 0; i < 4; i++) most = sizes[i] > most ? sizes[i] : most;
    int channels = m->stem_width;
    for (int i = 0; i < INCEPTION_BLOCKS; i++)
        if (4 * m->inception_blocks[i].width > channels) channels = 4 * m->inception_blocks[i].width;
    int stride = map_stride(channels);
    int64_t used = 0;
    const struct {
        float **to;
        int64_t floats;
    } parts[] = {
        {&b->tokens, (int64_t)CHUNK * TOKENS * m->row},
        {&b->points, (int64_t)POINTS * m->point},
        {&b->sums, (int64_t)POINTS * m->point},
        {&b->hidden, (int64_t)POINTS * m->hidden_point},
        {&b->normal, (int64_t)BLOCK * TOKENS * m->row},
        {&b->qkv, (int64_t)BLOCK * TOKENS * 3 * m->heads * m->head + TILE_COLUMNS},
        {&b->attended, (int64_t)BLOCK * TOKENS * m->heads * m->head + TILE_COLUMNS},
        {&b->mlp, (int64_t)BLOCK * TOKENS * packed_columns(m->mlp_width)},
        {&b->scratch, (int64_t)(m->head + TOKENS) * PADDED_TOKENS + 256 * 4 * stride + 400 * stride},
        {&b->patches, (int64_t)CHUNK * PATCHES * BANDS * PATCH * PATCH},
        {&b->features, (int64_t)CHUNK * feature_width(m)},
        {&b->layer, (int64_t)2 * CHUNK * packed_columns(most)},
        {&b->maps[0], (int64_t)256 * stride + LANES},
        {&b->maps[1], (int64_t)256 * stride + LANES},
        {&b->stem, (int64_t)256 * stride + LANES},
    };
    for (unsigned i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].to = b->memory ? b->memory + used : NULL;
        used += (parts[i].floats + 15) / 16 * 16;
    }
    b->size = used;
}

static void destroy(Model *m) {
    if (!m) return;
    for (int i = 0; m->buffers && i < m->threads; i++)
        release(m->buffers[i].memory, m->buffers[i].size);
    release(m->memory, m->size);
    free(m->buffers);
    free(m->blocks);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static Model *create(const Tensors *t, int threads) {
    Model *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    pthread_mutex_init(&m->lock, NULL);
    m->depth = t->depth, m->width = t->width, m->heads = t->heads, m->threads = threads;
    m->mlp_width = t->mlp_width, m->conv_width = t->conv_width, m->norm_eps = t->norm_eps;
    m->branch_width = t->branch_width, m->magnitude_width = t->magnitude_width;
    m->head_width = t->head_width, m->stem_width = t->stem_width;
    m->outputs = t->outputs;
    m->head = round_up(m->width / m->heads, LANES);
    m->row = packed_columns(m->width);
    m->hidden = m->conv_width < HIDDEN ? round_up(m->conv_width, LANES) : HIDDEN;
    m->panels = (m->conv_width + m->hidden - 1) / m->hidden;
    /* A cache line more, or the same channel of all points would meet in one set of the cache. */
    m->point = CHUNK * m->row + 16;
    m->hidden_point = CHUNK * m->hidden + 16;
    m->first_size = large_size(m->width, m->hidden);
    m->second_size = large_size(m->hidden, m->width);
    m->panel_size = POINTS * (m->first_size + m->second_size);
    m->blocks = calloc(m->depth, sizeof *m->blocks);
    m->buffers = calloc(threads, sizeof *m->buffers);
    m->tensors = t;
    if (!m->blocks || !m->buffers) goto no_memory;
    take_all(m, t); /* counts */
    m->size = m->used + TILE_COLUMNS;
    m->used = 0;
    m->memory = allocate(m->size);
    if (!m->memory) goto no_memory;
    take_all(m, t);
    run_parallel(threads, (int64_t)m->depth * m->panels, pack_convolutions, m);
    if (m->out_of_memory) goto no_memory;
    m->tensors = NULL;
    for (int i = 0; i < threads; i++) {
        lay_out(m, &m->buffers[i]);
        m->buffers[i].memory = allocate(m->buffers[i].size);
        if (!m->buffers[i].memory) goto no_memory;
        lay_out(m, &m->buffers[i]);
    }
    return m;
no_memory:
    destroy(m);
    return NULL;
}

static void linear(const Packed *p, int rows, const float *a, ptrdiff_t a_row, float *c,
                   ptrdiff_t c_row, int accumulate) {
    multiply(rows, p->inputs, p->outputs, a, a_row, p->weight, c, c_row, p->bias, accumulate);
}

static void linear_large(const Packed *p, int rows, const float *a, ptrdiff_t a_row, float *c,
                         ptrdiff_t c_row, int accumulate) {
    multiply_large(rows, p->inputs, p->outputs, a, a_row, p->weight, c, c_row, p->bias, accumulate);
}

static void embed(const Model *m, Buffers *b, const float *image, int n) {
    const int values = BANDS * PATCH * PATCH;
    float *to = b->patches;
    for (int g = 0; g < n; g++, image += BANDS * SIDE * SIDE)
        for (int y = 0; y < GRID; y++)
            for (int x = 0; x < GRID; x++)
                for (int band = 0; band < BANDS; band++)
                    for (int row = 0; row < PATCH; row++, to += PATCH)
                        memcpy(to, image + (band * SIDE + y * PATCH + row) * SIDE + x * PATCH,
                               sizeof(float) * PATCH);
    for (int g = 0; g < n; g++) {
        float *token = b->tokens + (size_t)g * TOKENS * m->row;
        memcpy(token, m->class_token, sizeof(float) * m->row);
        memcpy(token + m->row, m->position, sizeof(float) * PATCHES * m->row);
    }
    lap(&b->clock, IN_EMBEDDING);
    for (int g = 0; g < n; g++) {
        float *token = b->tokens + (size_t)g * TOKENS * m->row;
        multiply(PATCHES, values, m->width, b->patches + (size_t)g * PATCHES * values, values,
                 m->patch.weight, token + m->row, m->row, NULL, 1);
    }
    lap(&b->clock, IN_OTHER_PRODUCTS);
}

/* Both convolutions, up to the sums at the points of the second. */
static void convolutions(const Model *m, Buffers *b, const Block *block, int n) {
    for (int g = 0; g < n; g++)
        tokens_to_points(b->tokens + (size_t)g * TOKENS * m->row, m->row, m->width,
                         b->points + (size_t)g * m->row, m->point);
    lap(&b->clock, IN_TRANSFORMS);
    for (int p = 0; p < m->panels; p++) {
        const float *first = block->convolutions + p * m->panel_size;
        const float *second = first + POINTS * m->first_size;
        for (int i = 0; i < POINTS; i++)
            multiply_large(n, m->width, m->hidden, b->points + (size_t)i * m->point, m->row,
                           first + i * m->first_size, b->hidden + (size_t)i * m->hidden_point,
                           m->hidden, NULL, 0);
        lap(&b->clock, IN_CONVOLUTIONS);
        for (int g = 0; g < n; g++)
            activate_points(b->hidden + (size_t)g * m->hidden, m->hidden_point, m->hidden,
                            block->first_bias + p * m->hidden);
        lap(&b->clock, IN_TRANSFORMS);
        for (int i = 0; i < POINTS; i++)
            multiply_large(n, m->hidden, m->width, b->hidden + (size_t)i * m->hidden_point,
                           m->hidden, second + i * m->second_size, b->sums + (size_t)i * m->point,
                           m->row, NULL, p > 0);
        lap(&b->clock, IN_CONVOLUTIONS);
    }
}

/* Attention, the convolutions' result and the MLP of up to BLOCK galaxies. */
static void rest_of_block(const Model *m, Buffers *b, const Block *block, int first, int n, int last) {
    int rows = n * TOKENS, row = m->row, qkv_row = 3 * m->heads * m->head;
    int attended_row = m->heads * m->head, mlp_row = packed_columns(m->mlp_width);
    float *tokens = b->tokens + (size_t)first * TOKENS * row;
    layer_norm(tokens, row, b->normal, row, rows, m->width, m->norm_eps);
    lap(&b->clock, IN_NORMS);
    linear_large(&block->qkv, rows, b->normal, row, b->qkv, qkv_row, 0);
    lap(&b->clock, IN_QKV);
    for (int g = 0; g < n; g++)
        attend(b->qkv + (size_t)g * TOKENS * qkv_row, qkv_row, m->heads, m->head,
               b->attended + (size_t)g * TOKENS * attended_row, attended_row, b->scratch);
    lap(&b->clock, IN_ATTENTION);
    linear_large(&block->proj, rows, b->attended, attended_row, tokens, row, 1);
    lap(&b->clock, IN_QKV);
    for (int g = 0; g < n; g++)
        add_points(b->sums + (size_t)(first + g) * row, m->point, m->width, block->second_bias,
                   tokens + (size_t)g * TOKENS * row, row);
    lap(&b->clock, IN_TRANSFORMS);
    layer_norm(tokens, row, b->normal, row, rows, m->width, m->norm_eps);
    lap(&b->clock, IN_NORMS);
    linear_large(&block->fc1, rows, b->normal, row, b->mlp, mlp_row, 0);
    lap(&b->clock, IN_MLP);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < mlp_row; c += LANES) {
            float *value = b->mlp + (size_t)r * mlp_row + c;
            store(value, gelu(load(value)));
        }
    if (last) {
        /* Only the patches' mean goes on, and the second layer, being linear, is applied to it. */
        for (int g = 0; g < n; g++) {
            float *token = tokens + (size_t)g * TOKENS * row;
            float *hidden = b->mlp + (size_t)g * TOKENS * mlp_row;
            for (int c = 0; c < row; c += LANES) {
                vec sum = all(0);
                for (int i = 1; i < TOKENS; i++) sum += load(token + i * row + c);
                store(token + c, sum * all(1.0f / PATCHES));
            }
            for (int c = 0; c < mlp_row; c += LANES) {
                vec sum = all(0);
                for (int i = 1; i < TOKENS; i++) sum += load(hidden + i * mlp_row + c);
                store(hidden + c, sum * all(1.0f / PATCHES));
            }
        }
        lap(&b->clock, IN_GELU);
        linear_large(&block->fc2, n, b->mlp, TOKENS * mlp_row, tokens, TOKENS * row, 1);
    } else {
        lap(&b->clock, IN_GELU);
        linear_large(&block->fc2, rows, b->mlp, mlp_row, tokens, row, 1);
    }
    lap(&b->clock, IN_MLP);
}

/* The inception branch of one galaxy, up to its flattened last map. */
static void inception_maps(const Model *m, Buffers *b, const float *image, float *flat) {
    float *maps = b->maps[0], *other = b->maps[1];
    int side = SIDE / 2, stride = map_stride(BANDS);
    /* The stem is linear, so the mean over 2 x 2 pixels can be taken before it. */
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++)
            for (int band = 0; band < BANDS; band++) {
                const float *p = image + (band * SIDE + 2 * y) * SIDE + 2 * x;
                maps[(y * side + x) * stride + band] = (p[0] + p[1] + p[SIDE] + p[SIDE + 1]) * 0.25f;
            }
    int source_channels = m->stem_width, source_stride = map_stride(m->stem_width);
    lap(&b->clock, IN_INCEPTION);
    linear(&m->stem, side * side, maps, stride, b->stem, source_stride, 0);
    lap(&b->clock, IN_OTHER_PRODUCTS);
    const float *source = b->stem;
    for (int i = 0; i < INCEPTION_BLOCKS; i++) {
        const InceptionBlock *block = &m->inception_blocks[i];
        int out_stride = map_stride(4 * block->width);
        inception_block(block, maps, stride, source, source_stride, source_channels, side, other,
                        out_stride, b->scratch, &b->clock);
        float *done = other;
        other = maps, maps = done, stride = out_stride;
        if (i == 1 || i == 3) {
            halve(maps, stride, side, 4 * block->width, other);
            side /= 2;
            float *halved = other;
            other = maps, maps = halved;
        }
        source = maps, source_stride = stride, source_channels = 4 * block->width;
    }
    int channels = 3 * m->inception_blocks[INCEPTION_BLOCKS - 1].width;
    for (int c = 0; c < channels; c++)
        for (int p = 0; p < side * side; p++) flat[c * side * side + p] = maps[p * stride + c];
}

/* A layer of the heads, and its ReLU. */
static void relu_layer(Buffers *b, const Packed *p, int rows, const float *a, ptrdiff_t a_row, float *c,
                       ptrdiff_t c_row) {
    lap(&b->clock, IN_HEADS);
    linear(p, rows, a, a_row, c, c_row, 0);
    lap(&b->clock, IN_OTHER_PRODUCTS);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < p->outputs; i++)
            c[r * c_row + i] = c[r * c_row + i] < 0 ? 0 : c[r * c_row + i];
}

static void heads(const Model *m, Buffers *b, const float *image, const float *magnitude, int n,
                  float *output) {
    int row = feature_width(m), flat = 3 * m->inception_blocks[INCEPTION_BLOCKS - 1].width * PATCHES;
    for (int g = 0; g < n; g++)
        inception_maps(m, b, image + (size_t)g * BANDS * SIDE * SIDE, b->patches + (size_t)g * flat);
    lap(&b->clock, IN_INCEPTION);
    layer_norm(b->tokens, (ptrdiff_t)TOKENS * m->row, b->tokens, (ptrdiff_t)TOKENS * m->row, n,
               m->width, m->norm_eps);
    lap(&b->clock, IN_NORMS);
    /* From left to right: what a layer writes beyond its width the next one overwrites. */
    float *features = b->features;
    relu_layer(b, &m->encoder, n, b->tokens, (ptrdiff_t)TOKENS * m->row, features, row);
    features += m->branch_width;
    relu_layer(b, &m->inception, n, b->patches, flat, features, row);
    features += m->branch_width;
    int most = packed_columns(m->magnitude_width);
    const float *from = magnitude;
    int from_row = BANDS;
    for (int i = 0; i < MAGNITUDE_LAYERS; i++) {
        int is_last = i == MAGNITUDE_LAYERS - 1;
        float *to = is_last ? features : b->layer + (size_t)(i % 2) * CHUNK * most;
        int to_row = is_last ? row : most;
        relu_layer(b, &m->magnitude[i], n, from, from_row, to, to_row);
        from = to, from_row = to_row;
    }
    most = packed_columns(m->head_width);
    relu_layer(b, &m->joint, n, b->features, row, b->layer, most);
    lap(&b->clock, IN_HEADS);
    /* Whole vectors are written, of which the first `outputs` values go on. */
    float *padded = b->layer + (size_t)CHUNK * most;
    int padded_row = packed_columns(m->outputs);
    linear(&m->output, n, b->layer, most, padded, padded_row, 0);
    lap(&b->clock, IN_OTHER_PRODUCTS);
    for (int g = 0; g < n; g++)
        memcpy(output + (size_t)g * m->outputs, padded + (size_t)g * padded_row,
               sizeof(float) * m->outputs);
    lap(&b->clock, IN_HEADS);
}

typedef struct {
    Model *model;
    const float *image, *magnitude;
    float *output;
    int64_t galaxies, chunks;
} Prediction;

static void predict_chunk(void *context, int64_t index, int thread) {
    const Prediction *p = context;
    const Model *m = p->model;
    Buffers *b = &m->buffers[thread];
    int64_t start = p->galaxies * index / p->chunks, end = p->galaxies * (index + 1) / p->chunks;
    int n = (int)(end - start);
    const float *image = p->image + start * BANDS * SIDE * SIDE;
    b->clock.since = now();
    embed(m, b, image, n);
    for (int i = 0; i < m->depth; i++) {
        convolutions(m, b, &m->blocks[i], n);
        for (int first = 0; first < n; first += BLOCK)
            rest_of_block(m, b, &m->blocks[i], first, n - first < BLOCK ? n - first : BLOCK,
                          i == m->depth - 1);
    }
    heads(m, b, image, p->magnitude + start * BANDS, n, p->output + start * m->outputs);
}

static void predict(Model *m, const float *image, const float *magnitude, float *output,
                    int64_t galaxies) {
    if (galaxies <= 0) return;
    /* As few chunks as fit the buffers, and as many for each thread as for the others. */
    int64_t chunks = (galaxies + CHUNK - 1) / CHUNK;
    chunks = (chunks + m->threads - 1) / m->threads * m->threads;
    if (chunks > galaxies) chunks = galaxies;
    Prediction p = {m, image, magnitude, output, galaxies, chunks};
    pthread_mutex_lock(&m->lock);
    run_parallel(m->threads, chunks, predict_chunk, &p);
    pthread_mutex_unlock(&m->lock);
}

static void times(const Model *m, int64_t *nanoseconds) {
    memset(nanoseconds, 0, sizeof(int64_t) * PARTS);
    for (int i = 0; i < m->threads; i++)
        for (int part = 0; part < PARTS; part++) nanoseconds[part] += m->buffers[i].clock.spent[part];
}

#define NAME_(a, b) a##b
#define NAME(a, b) NAME_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
const InstructionSet NAME(instruction_set_, VARIANT) = {TEXT(VARIANT), create, predict, times,
                                                        destroy};
