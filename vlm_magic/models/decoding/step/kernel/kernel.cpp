// One decode step of a gated transformer on a CPU: token vectors in, logits out, nothing allocated.
//
// Memory is what a step costs, so each weight is read once, for all tokens of the step, with as many
// additions in flight as the processor has registers for. Those tokens follow each other in one conversation,
// or are the newest ones of several rows. Weights may be float32, bfloat16 or 8-bit integers
// with a factor for each row; everything is computed in float32. `native.py` fills the records below
// with the addresses of the model's own tensors, anew for every answer, so that no weight is ever out of date.
//
// Built by `compiler.py` with the machine's own compiler: GCC or Clang, whose vector types are used.

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define HAS_WHOLE_PRODUCTS
#endif

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int TOKENS = 8;  // the most of a step of one conversation
constexpr int LINE = 64;    // bytes that memory gives at once
constexpr int AHEAD = 4096; // bytes; a processor does not fetch small numbers early enough by itself

// Memory is read into them by memcpy, wherever it lies. A smaller alignment of the types themselves would do as
// well, but keeps GCC from holding 32-byte ones in registers: twenty-five times slower, measured.
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef double dvec __attribute__((vector_size(LANES * 8)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2)));
typedef int8_t bvec __attribute__((vector_size(LANES)));

enum Kind { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

extern "C" {

struct Linear {          // y = W x + b
    const void* weight;  // (rows, cols), rows one after the other
    const float* factor; // (rows,) for INT8
    const float* bias;   // (rows,) or null
    int32_t rows, cols, kind, unused;
};

struct Layer {
    Linear q, k, v, o, gate, up, down;
    const float *before, *between, *q_norm, *k_norm, *after, *last;  // weights of norms, null for none
    void *keys, *values;                                             // (rows, heads, room, width)
    float scale;
    int32_t window;  // 0 for all
    int32_t rope;    // which of the model's angles
};

struct Gap {  // columns of a row that hold padding and are not seen, [from, to)
    int32_t from, to;
};

struct Model {
    const Layer* layers;
    Linear head;
    const float* norm;
    float eps;
    int32_t n_layers, width, n_heads, n_shared_heads, head_width, activation, cache_kind;
    int64_t room;
    float* scratch;
    const float *cos[2], *sin[2];  // (tokens, width), of the tokens of this step
    int32_t n_threads;
};

}  // extern "C"

static inline vec load(const float* p) { vec v; std::memcpy(&v, p, sizeof v); return v; }
static inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }

struct Float32 {
    typedef float item;
    static inline vec wide(const item* p) { return load(p); }
    static inline float one(item x) { return x; }
    static inline item narrow(float x) { return x; }
};

struct BFloat16 {
    typedef uint16_t item;
    static inline vec wide(const item* p) {
        hvec h; std::memcpy(&h, p, sizeof h);
        ivec i = __builtin_convertvector(h, ivec) << 16;
        vec v; std::memcpy(&v, &i, sizeof v); return v;
    }
    static inline float one(item x) {
        uint32_t i = uint32_t(x) << 16; float f; std::memcpy(&f, &i, 4); return f;
    }
    static inline item narrow(float x) {  // to the nearest, to even
        uint32_t i; std::memcpy(&i, &x, 4);
        return item((i + 0x7fff + ((i >> 16) & 1)) >> 16);
    }
};

struct Int8 {
    typedef int8_t item;
    static inline vec wide(const item* p) {  // GCC 12 does this one by one, unless it is told how
#if defined(__AVX512F__)
        return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
        return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
        bvec b; std::memcpy(&b, p, sizeof b);
        return __builtin_convertvector(__builtin_convertvector(b, ivec), vec);
#endif
    }
    static inline float one(item x) { return float(x); }
};

typedef float four __attribute__((vector_size(16)));

static inline four folded(vec v) {  // by halves: few additions after each other
    typedef float eight __attribute__((vector_size(32)));
    eight e[LANES / 8];
    std::memcpy(e, &v, sizeof v);
    if (LANES == 16) e[0] += e[LANES / 8 - 1];
    four f[2];
    std::memcpy(f, e, sizeof f);
    return f[0] + f[1];
}

static inline float sum(vec v) {
    const four f = folded(v);
    return (f[0] + f[2]) + (f[1] + f[3]);
}

#ifdef __clang__
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t places __attribute__((vector_size(16)));
#define PICK(a, b, ...) __builtin_shuffle(a, b, places{__VA_ARGS__})
#endif

static inline four sum_each(vec a, vec b, vec c, vec d) {  // four sums at once, added in the order of `sum`
    const four e = folded(a), f = folded(b), g = folded(c), h = folded(d);
    const four ef = PICK(e, f, 0, 4, 1, 5) + PICK(e, f, 2, 6, 3, 7);
    const four gh = PICK(g, h, 0, 4, 1, 5) + PICK(g, h, 2, 6, 3, 7);
    return PICK(ef, gh, 0, 1, 4, 5) + PICK(ef, gh, 2, 3, 6, 7);
}

// exp of each lane: 2^n times a polynomial of what is left, |left| <= ln 2 / 2; wrong by two units in the last place.
static inline vec exp_of(vec x) {
    const vec low = vec{} - 87.3f, high = vec{} + 88.0f;
    x = x < low ? low : x;
    x = x > high ? high : x;
    vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's last bits are the rounded n
    ivec n; std::memcpy(&n, &shifted, sizeof n);
    vec whole = shifted - 12582912.0f;
    vec left = x - whole * 0.693145752f;
    left = left - whole * 1.42860677e-6f;
    vec p = vec{} + 1.0f / 720;
    p = p * left + 1.0f / 120;
    p = p * left + 1.0f / 24;
    p = p * left + 1.0f / 6;
    p = p * left + 0.5f;
    p = p * left + 1.0f;
    p = p * left + 1.0f;
    ivec power = ((n & 0x3ff) + 127) << 23;
    const ivec negative = (n & 0x200) != 0;  // n is kept in the low ten bits, in two's complement
    power = negative ? (((n & 0x3ff) - 1024 + 127) << 23) : power;
    vec scale; std::memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

static float exp_of(float x) { return exp_of(vec{} + x)[0]; }

// y[t][row] = W[row] . x[t] for the rows [from, to), T tokens at once. However many there are, the additions
// of each are the same in the same order.
template <class W, int T>
static void multiply(const Linear& m, const float* x, float* y, int from, int to) {
    typedef typename W::item item;
    constexpr int ROWS = LANES == 16 || T <= 2 ? 4 : 2;  // of the weight at a time, as registers allow
    const int cols = m.cols, whole = cols / LANES * LANES;
    for (int row = from; row < to; row += ROWS) {
        const int n = to - row < ROWS ? to - row : ROWS;
        const item* w[ROWS];
        for (int r = 0; r < ROWS; r++)
            w[r] = (const item*)m.weight + int64_t(r < n ? row + r : row) * cols;
        vec sums[ROWS][T] = {};
        const auto add = [&](int c) {
            for (int r = 0; r < ROWS; r++) {
                const vec v = W::wide(w[r] + c);
                for (int t = 0; t < T; t++) sums[r][t] += v * load(x + int64_t(t) * cols + c);
            }
        };
        constexpr int AT_ONCE = LINE / int(sizeof(item)) > LANES ? LINE / int(sizeof(item)) : LANES;
        int c0 = 0;
        for (; c0 + AT_ONCE <= whole; c0 += AT_ONCE) {
            if (sizeof(item) < sizeof(float))
                for (int r = 0; r < ROWS; r++) __builtin_prefetch((const char*)(w[r] + c0) + AHEAD);
            for (int c = c0; c < c0 + AT_ONCE; c += LANES) add(c);
        }
        for (; c0 < whole; c0 += LANES) add(c0);
        for (int r = 0; r < n; r++)
            for (int t = 0; t < T; t++) {
                float s = sum(sums[r][t]);
                for (int c = whole; c < cols; c++) s += W::one(w[r][c]) * x[int64_t(t) * cols + c];
                if (m.factor) s *= m.factor[row + r];
                y[int64_t(t) * m.rows + row + r] = m.bias ? s + m.bias[row + r] : s;
            }
    }
}

template <class W>
static void multiply(const Linear& m, const float* x, float* y, int n_tokens, int from, int to) {
    switch (n_tokens) {
        case 1: return multiply<W, 1>(m, x, y, from, to);
        case 2: return multiply<W, 2>(m, x, y, from, to);
        case 3: return multiply<W, 3>(m, x, y, from, to);
        case 4: return multiply<W, 4>(m, x, y, from, to);
        default: break;
    }
    for (; n_tokens > 4; n_tokens -= 4, x += int64_t(4) * m.cols, y += int64_t(4) * m.rows)
        multiply<W, 4>(m, x, y, from, to);
    multiply<W>(m, x, y, n_tokens, from, to);
}

#ifdef HAS_WHOLE_PRODUCTS
// 8-bit weights without making floats of them, which takes longer than memory does: a token's vector is written
// as whole numbers of 24 bits, as exact as its largest float, in three planes of a byte each. Products of
// bytes are summed exactly, whatever the order.
constexpr int MOST_COLS = 65536;  // whose sums fit into 32 bits

static inline int64_t plane_size(int cols) { return (int64_t(cols) + LINE - 1) / LINE * LINE; }

// x (cols,) as planes[0] * 2^16 + planes[1] * 2^8 + planes[2] - 2^23, times what is returned.
static float split(const float* x, int cols, uint8_t* planes) {
    const int64_t size = plane_size(cols);
    const auto mask = [&](int c) { return __mmask16(cols - c < LANES ? (1u << (cols - c)) - 1 : 0xffff); };
    __m512i most = _mm512_setzero_si512();
    for (int c = 0; c < cols; c += LANES) {
        const __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask(c), x + c));
        most = _mm512_max_epi32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    const int32_t largest = _mm512_reduce_max_epi32(most);  // floats without a sign are in the order of their bits
    if (largest >= 0x7f800000) return NAN;
    float highest; std::memcpy(&highest, &largest, 4);
    const double by = highest > 0 ? 8388600.0 / highest : 0;  // less than 2^23, rounded up as well
    const float clipped = by > 1e38 ? 1e38f : float(by);
    const __m512 scale = _mm512_set1_ps(clipped);
    for (int c = 0; c < cols; c += LANES) {
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask(c), x + c), scale);
        const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(1 << 23));
        _mm_storeu_si128((__m128i*)(planes + c), _mm512_cvtepi32_epi8(_mm512_srli_epi32(q, 16)));
        _mm_storeu_si128((__m128i*)(planes + size + c), _mm512_cvtepi32_epi8(_mm512_srli_epi32(q, 8)));
        _mm_storeu_si128((__m128i*)(planes + 2 * size + c), _mm512_cvtepi32_epi8(q));
    }
    return clipped > 0 ? 1 / clipped : 0;
}

static inline void sum_each(__m512i a, __m512i b, __m512i c, __m512i d, int32_t* sums) {
    const auto folded = [](__m512i v) {
        return _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    };
    const __m256i ab = _mm256_hadd_epi32(folded(a), folded(b)), cd = _mm256_hadd_epi32(folded(c), folded(d));
    const __m256i all = _mm256_hadd_epi32(ab, cd);
    _mm_storeu_si128((__m128i*)sums, _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1)));
}

template <int T>
static void multiply_whole(const Linear& m, const uint8_t* planes, const float* scales, float* y, int from, int to) {
    constexpr int ROWS = T == 1 ? 4 : 2;
    const int cols = m.cols;
    const int64_t size = plane_size(cols);
    const __m512i one = _mm512_set1_epi8(1);
    for (int row = from; row < to; row += ROWS) {
        const int n = to - row < ROWS ? to - row : ROWS;
        const int8_t* w[ROWS];
        for (int r = 0; r < ROWS; r++) w[r] = (const int8_t*)m.weight + int64_t(r < n ? row + r : row) * cols;
        __m512i sums[ROWS][T][3] = {}, own[ROWS] = {};  // own: of the weights, for planes are without a sign
        const auto add = [&](int c, __mmask64 mask) {
            for (int r = 0; r < ROWS; r++) {
                const __m512i v = _mm512_maskz_loadu_epi8(mask, w[r] + c);
                own[r] = _mm512_dpbusd_epi32(own[r], one, v);
                for (int t = 0; t < T; t++)
                    for (int p = 0; p < 3; p++)
                        sums[r][t][p] = _mm512_dpbusd_epi32(
                            sums[r][t][p], _mm512_loadu_si512(planes + (3 * t + p) * size + c), v);
            }
        };
        int c = 0;
        for (; c + LINE <= cols; c += LINE) {
            for (int r = 0; r < ROWS; r++) __builtin_prefetch(w[r] + c + AHEAD);
            add(c, ~__mmask64(0));
        }
        if (c < cols) add(c, (__mmask64(1) << (cols - c)) - 1);
        for (int r = 0; r < n; r++) {
            for (int t = 0; t < T; t++) {
                int32_t part[4];
                sum_each(sums[r][t][0], sums[r][t][1], sums[r][t][2], own[r], part);
                const int64_t planes_sum = int64_t(part[0]) * 65536 + int64_t(part[1]) * 256 + part[2];
                const double whole = double(planes_sum - int64_t(part[3]) * (1 << 23));
                float s = float(whole * scales[t]);
                if (m.factor) s *= m.factor[row + r];
                y[int64_t(t) * m.rows + row + r] = m.bias ? s + m.bias[row + r] : s;
            }
        }
    }
}

static void multiply_whole(const Linear& m, const uint8_t* planes, const float* scales, float* y, int n_tokens,
                           int from, int to) {
    for (; n_tokens > 0; n_tokens -= 4, planes += 12 * plane_size(m.cols), scales += 4, y += int64_t(4) * m.rows)
        switch (n_tokens) {
            case 1: return multiply_whole<1>(m, planes, scales, y, from, to);
            case 2: return multiply_whole<2>(m, planes, scales, y, from, to);
            case 3: return multiply_whole<3>(m, planes, scales, y, from, to);
            default: multiply_whole<4>(m, planes, scales, y, from, to);
        }
}
#endif

// Floats that `multiply` needs beside its input and output.
static int64_t room_of(int cols, int n_tokens) {
#ifdef HAS_WHOLE_PRODUCTS
    return n_tokens * (1 + 3 * plane_size(cols) / int64_t(sizeof(float)));
#else
    return 0;
#endif
}

static void multiply(const Linear& m, const float* x, float* y, int n_tokens, int n_threads, float* room) {
#ifdef HAS_WHOLE_PRODUCTS
    const bool is_whole = m.kind == INT8 && m.cols <= MOST_COLS;
    float* const scales = room;
    uint8_t* const planes = (uint8_t*)(room + n_tokens);
    for (int t = 0; is_whole && t < n_tokens; t++)
        scales[t] = split(x + int64_t(t) * m.cols, m.cols, planes + 3 * t * plane_size(m.cols));
#endif
    const int step = m.cols > 2048 ? 16 : 64;  // rows of a piece: it stays near the processor for all tokens
    const int n_pieces = (m.rows + step - 1) / step;
    #pragma omp parallel for schedule(static) num_threads(n_threads) if (n_threads > 1)
    for (int piece = 0; piece < n_pieces; piece++) {
        const int from = piece * step, to = from + step < m.rows ? from + step : m.rows;
#ifdef HAS_WHOLE_PRODUCTS
        if (is_whole) {
            multiply_whole(m, planes, scales, y, n_tokens, from, to);
            continue;
        }
#endif
        switch (m.kind) {
            case FLOAT32: multiply<Float32>(m, x, y, n_tokens, from, to); break;
            case BFLOAT16: multiply<BFloat16>(m, x, y, n_tokens, from, to); break;
            default: multiply<Int8>(m, x, y, n_tokens, from, to); break;
        }
    }
}

static void norm(const float* x, const float* weight, float* y, int n_rows, int width, float eps) {
    for (int r = 0; r < n_rows; r++, x += width, y += width) {
        dvec squares = {};
        int at = 0;
        for (; at + LANES <= width; at += LANES) {
            const dvec wide = __builtin_convertvector(load(x + at), dvec);
            squares += wide * wide;
        }
        double total = 0;
        for (int i = 0; i < LANES; i++) total += squares[i];
        for (; at < width; at++) total += double(x[at]) * x[at];
        const float by = 1.0f / std::sqrt(float(total / width) + eps);
        for (int i = 0; i < width; i++) y[i] = x[i] * by * weight[i];
    }
}

static void turn(float* x, int n_heads, int width, const float* cos, const float* sin) {
    const int half = width / 2;
    for (int h = 0; h < n_heads; h++, x += width)
        for (int i = 0; i < half; i++) {
            const float a = x[i], b = x[i + half];
            x[i] = a * cos[i] - b * sin[i];
            x[i + half] = b * cos[i + half] + a * sin[i + half];
        }
}

template <class C>
static void keep(void* room, int64_t n_room, int n_heads, int width, int64_t at, const float* x) {
    for (int h = 0; h < n_heads; h++) {
        typename C::item* to = (typename C::item*)room + (h * n_room + at) * width;
        for (int i = 0; i < width; i++) to[i] = C::narrow(x[h * width + i]);
    }
}

// One head's attention to the tokens [from, to) without those of a gap: q (width,) -> out (width,); scores is
// room for to - from floats.
template <class C>
static void attend(const void* keys, const void* values, int from, int to, Gap gap, int width, const float* q,
                   float scale, float* scores, float* out) {
    typedef typename C::item item;
    const int n_gap = gap.to > from ? gap.to - (gap.from > from ? gap.from : from) : 0;
    const int first = gap.from > from ? gap.from - from : 0;  // tokens before the gap
    const int n = to - from - n_gap, whole = width / LANES * LANES;
    const item *k = (const item*)keys, *v = (const item*)values;
    const auto at = [&](int j) { return int64_t(from + j + (j < first ? 0 : n_gap)) * width; };
    float most = -INFINITY;
    int j = 0;
    for (; whole == width && j + 4 <= n; j += 4) {  // four keys at once, for a sum takes longer than a product
        vec a[4] = {};
        const item* key[4] = {k + at(j), k + at(j + 1), k + at(j + 2), k + at(j + 3)};
        for (int i = 0; i < whole; i += LANES) {
            const vec own = load(q + i);
            for (int r = 0; r < 4; r++) a[r] += C::wide(key[r] + i) * own;
        }
        const four s = sum_each(a[0], a[1], a[2], a[3]) * scale;
        std::memcpy(scores + j, &s, sizeof s);
        for (int r = 0; r < 4; r++) most = s[r] > most ? s[r] : most;
    }
    for (; j < n; j++) {
        const item* key = k + at(j);
        vec a = {};
        for (int i = 0; i < whole; i += LANES) a += C::wide(key + i) * load(q + i);
        float s = sum(a);
        for (int i = whole; i < width; i++) s += C::one(key[i]) * q[i];
        scores[j] = s * scale;
        if (scores[j] > most) most = scores[j];
    }
    float total = 0;
    for (j = 0; j + LANES <= n; j += LANES) {
        const vec e = exp_of(load(scores + j) - most);
        store(scores + j, e);
        total += sum(e);
    }
    for (; j < n; j++) total += scores[j] = exp_of(scores[j] - most);
    int i = 0;
    for (; i + 4 * LANES <= width; i += 4 * LANES) {  // sums stay in registers
        vec sums[4] = {};
        for (j = 0; j < n; j++) {
            const item* value = v + at(j) + i;
            for (int r = 0; r < 4; r++) sums[r] += C::wide(value + r * LANES) * scores[j];
        }
        for (int r = 0; r < 4; r++) store(out + i + r * LANES, sums[r]);
    }
    for (; i + LANES <= width; i += LANES) {
        vec s = {};
        for (j = 0; j < n; j++) s += C::wide(v + at(j) + i) * scores[j];
        store(out + i, s);
    }
    for (; i < width; i++) {
        out[i] = 0;
        for (j = 0; j < n; j++) out[i] += scores[j] * C::one(v[at(j) + i]);
    }
    for (i = 0; i < width; i++) out[i] /= total;
}

static inline int own_thread() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

// Tokens of one conversation follow each other; with gaps, each stands in a row of its own.
static void attend(const Model& m, const Layer& layer, int n_before, int n_tokens, const Gap* gaps,
                   const float* q, float* out, float* scores) {
    const int n_group = m.n_heads / m.n_shared_heads, item = m.cache_kind == FLOAT32 ? 4 : 2;
    const int n_work = m.n_heads * n_tokens;
    const bool is_much = int64_t(n_before) * n_work * m.head_width > 100000;
    #pragma omp parallel for schedule(static) num_threads(m.n_threads) if (m.n_threads > 1 && is_much)
    for (int work = 0; work < n_work; work++) {
        const int t = work / m.n_heads, h = work % m.n_heads;
        const int to = n_before + 1 + (gaps ? 0 : t), row = gaps ? t : 0;
        const int from = layer.window && to > layer.window ? to - layer.window : 0;
        const Gap gap = gaps ? gaps[t] : Gap{0, 0};
        const int64_t offset = (int64_t(row) * m.n_shared_heads + h / n_group) * m.room * m.head_width * item;
        const char *k = (const char*)layer.keys + offset, *v = (const char*)layer.values + offset;
        const float* own_q = q + int64_t(work) * m.head_width;
        float *own_out = out + int64_t(work) * m.head_width, *own_scores = scores + own_thread() * m.room;
        if (m.cache_kind == FLOAT32)
            attend<Float32>(k, v, from, to, gap, m.head_width, own_q, layer.scale, own_scores, own_out);
        else
            attend<BFloat16>(k, v, from, to, gap, m.head_width, own_q, layer.scale, own_scores, own_out);
    }
}

static void keep(const Model& m, void* room, int row, int64_t at, const float* x) {
    const int64_t item = m.cache_kind == FLOAT32 ? 4 : 2;
    room = (char*)room + row * int64_t(m.n_shared_heads) * m.room * m.head_width * item;
    if (m.cache_kind == FLOAT32) keep<Float32>(room, m.room, m.n_shared_heads, m.head_width, at, x);
    else keep<BFloat16>(room, m.room, m.n_shared_heads, m.head_width, at, x);
}

static void gate(float* x, const float* up, int64_t n, int activation) {
    int64_t i = 0;
    for (; i < n; i += LANES) {  // the scratch has room for the last lanes
        const vec a = load(x + i);
        vec y;
        if (activation == 0) y = a / (1.0f + exp_of(-a));  // SiLU
        else {  // GELU, the form with tanh(u) = 1 - 2 / (exp(2u) + 1)
            const vec u = 0.7978845608f * (a + 0.044715f * a * a * a);
            y = 0.5f * a * (2.0f - 2.0f / (exp_of(2.0f * u) + 1.0f));
        }
        store(x + i, y * load(up + i));
    }
}

static void add(float* x, const float* y, int64_t n) { for (int64_t i = 0; i < n; i++) x[i] += y[i]; }

extern "C" {

int64_t vlm_scratch(const Model* m, int inner, int n_tokens) {  // floats that a step needs
    const int64_t q = int64_t(m->n_heads) * m->head_width, most = q > m->width ? q : m->width;
    const int64_t cols = most > inner ? most : inner;
    return n_tokens * (3 * most + 2 * q + 2 * int64_t(inner)) + m->n_threads * m->room + 8 * LANES
        + room_of(int(cols), n_tokens);
}

// hidden: (n_tokens, width) in, spoilt; logits: (n_tokens, V) out. Without gaps, the tokens follow each other in
// the first row; with them, (n_tokens,), each is the newest of its own row.
int vlm_step(const Model* model, float* hidden, int n_before, int n_tokens, int inner, const Gap* gaps,
             float* logits) {
    const Model& m = *model;
    if (n_tokens < 1 || (!gaps && n_tokens > TOKENS) || n_before + (gaps ? 1 : n_tokens) > m.room) return 1;
    const int64_t q_width = int64_t(m.n_heads) * m.head_width, kv_width = int64_t(m.n_shared_heads) * m.head_width;
    const int64_t most = q_width > m.width ? q_width : m.width;
    float *x = m.scratch, *y = x + n_tokens * most, *k = y + n_tokens * most, *q = k + n_tokens * most;
    float *a = q + n_tokens * q_width, *g = a + n_tokens * q_width, *u = g + n_tokens * int64_t(inner) + LANES;
    float* scores = u + n_tokens * int64_t(inner) + LANES;
    float* room = scores + m.n_threads * m.room;
    for (int l = 0; l < m.n_layers; l++) {
        const Layer& layer = m.layers[l];
        norm(hidden, layer.before, x, n_tokens, m.width, m.eps);
        multiply(layer.q, x, q, n_tokens, m.n_threads, room);
        multiply(layer.k, x, k, n_tokens, m.n_threads, room);
        multiply(layer.v, x, y, n_tokens, m.n_threads, room);
        if (layer.q_norm) norm(q, layer.q_norm, q, n_tokens * m.n_heads, m.head_width, m.eps);
        if (layer.k_norm) norm(k, layer.k_norm, k, n_tokens * m.n_shared_heads, m.head_width, m.eps);
        for (int t = 0; t < n_tokens; t++) {
            const float *cos = m.cos[layer.rope], *sin = m.sin[layer.rope];
            turn(q + t * q_width, m.n_heads, m.head_width, cos + t * m.head_width, sin + t * m.head_width);
            turn(k + t * kv_width, m.n_shared_heads, m.head_width, cos + t * m.head_width, sin + t * m.head_width);
            const int row = gaps ? t : 0, at = n_before + (gaps ? 0 : t);
            keep(m, layer.keys, row, at, k + t * kv_width);
            keep(m, layer.values, row, at, y + t * kv_width);
        }
        attend(m, layer, n_before, n_tokens, gaps, q, a, scores);
        multiply(layer.o, a, y, n_tokens, m.n_threads, room);
        if (layer.after) norm(y, layer.after, y, n_tokens, m.width, m.eps);
        add(hidden, y, n_tokens * int64_t(m.width));
        norm(hidden, layer.between, x, n_tokens, m.width, m.eps);
        multiply(layer.gate, x, g, n_tokens, m.n_threads, room);
        multiply(layer.up, x, u, n_tokens, m.n_threads, room);
        gate(g, u, n_tokens * int64_t(inner), m.activation);
        multiply(layer.down, g, y, n_tokens, m.n_threads, room);
        if (layer.last) norm(y, layer.last, y, n_tokens, m.width, m.eps);
        add(hidden, y, n_tokens * int64_t(m.width));
    }
    norm(hidden, m.norm, x, n_tokens, m.width, m.eps);
    multiply(m.head, x, logits, n_tokens, m.n_threads, room);
    return 0;
}

// Computes something small in both ways, in a process of its own first: a wrong instruction ends that one.
int vlm_try(void) {
    float weight[3 * 37], x[37], y[3], room[256], expected = 0;
    int8_t whole[3 * 37];
    for (int i = 0; i < 3 * 37; i++) weight[i] = whole[i] = int8_t(i % 5 - 2);
    for (int i = 0; i < 37; i++) x[i] = 1 + i % 3, expected += weight[37 + i] * x[i];
    if (room_of(37, 1) > 256 || std::fabs(exp_of(1.0f) - 2.7182818f) > 1e-5f) return 1;
    for (int way = 0; way < 2; way++) {
        const void* const of = way ? (const void*)whole : (const void*)weight;
        const Linear m = {of, nullptr, nullptr, 3, 37, way ? INT8 : FLOAT32, 0};
        multiply(m, x, y, 1, 1, room);
        if (std::fabs(y[1] - expected) > 0.01f) return 1;
    }
    return 0;
}

int vlm_sizes(int* of_linear, int* of_layer, int* of_model) {  // so that Python's records can be compared
    *of_linear = sizeof(Linear), *of_layer = sizeof(Layer), *of_model = sizeof(Model);
    return TOKENS;
}

}  // extern "C"
