// Runs CUDA kernels on the processor, to test them where there is no GPU.
//
// A test is one program that includes the kernels' .cu; device.cuh includes this file when
// nvcc is not the compiler:
//
//     c++ -std=c++17 -O2 -o gemm_test tests/cuda/gemm_test.cpp && ./gemm_test
//
// Each thread of a block is a fiber that runs until it waits: at a barrier, or for the
// other lanes of its warp. Blocks run one after another. That proves the arithmetic, the
// indices and the layouts, and finds most faults of synchronisation:
//
// * Every test runs under several schedules (`every_schedule`): threads in either order,
//   and asynchronous copies as early or as late as the model allows. A missing barrier or
//   wait gives wrong values under one of them.
// * Shared memory and outputs begin as NaN; what lies behind the end of a tensor or of
//   shared memory cannot be accessed (`Pages`).
// * Copies and matrix loads check their alignment, and matrix loads count their bank
//   conflicts (`bank_conflicts`).
// * Threads that wait for each other for ever, or that end before their copies, are errors.
//
// Speed, and races within a warp between collective operations, only a GPU can show.
#pragma once

#undef _FORTIFY_SOURCE // checks that longjmp stays on one stack
#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700 // for ucontext, on macOS
#endif

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

// ---- CUDA's types --------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __shared__ static // one block runs at a time
#define __forceinline__ inline
#define __noinline__
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(8) uint2 { uint32_t x, y; };
struct __align__(16) uint4 { uint32_t x, y, z, w; };
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };

inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

/// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    const uint32_t bits = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) {
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
    if (rest >= 0x7c00) return __uint_as_float(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    // The exponent's bias by a multiplication, which also normalises subnormal values.
    const float magnitude = __uint_as_float(rest << 13) * __uint_as_float((254 - 15) << 23);
    return __uint_as_float(__float_as_uint(magnitude) | sign);
}

/// To the nearest, ties to even.
inline __half __float2half_rn(float x) {
    const uint16_t sign = __float_as_uint(x) >> 16 & 0x8000;
    const float magnitude = std::fabs(x);
    if (x != x) return {0x7fff};
    if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7c00)};
    if (magnitude < 0x1p-14f) { // subnormal: an integer multiple of 2^-24
        return {uint16_t(sign | uint16_t(std::nearbyint(magnitude * 0x1p24f)))};
    }
    const uint32_t bits = __float_as_uint(magnitude);
    return {uint16_t(sign | (((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10)))};
}

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline int __float2int_rz(float x) { return int(x); }
inline void __threadfence() {}

namespace emulation {

[[noreturn]] inline void fail(const char* message) {
    fprintf(stderr, "block (%u, %u, %u), thread %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, message);
    _Exit(1); // without destructors: they would free the stack of this fiber
}

// ---- Memory --------------------------------------------------------------------------

/// Memory of `bytes` that begins at a multiple of 128 bytes, filled with NaN. The page
/// behind its end, rounded up to 16 bytes, cannot be accessed.
class Pages {
  public:
    explicit Pages(size_t bytes) : size_((bytes + 2 * PAGE - 1) / PAGE * PAGE) {
        void* mapped = mmap(nullptr, size_ + PAGE, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANON, -1, 0);
        if (mapped == MAP_FAILED || mprotect((char*)mapped + size_, PAGE, PROT_NONE)) {
            fail("no memory");
        }
        first_ = (unsigned char*)mapped;
        memset(first_, 0xff, size_);
    }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;
    ~Pages() { munmap(first_, size_ + PAGE); }

    unsigned char* begin() const { return first_; }
    unsigned char* end() const { return first_ + size_; }

    /// The last `bytes` before the page that cannot be accessed.
    unsigned char* last(size_t bytes, size_t alignment) const {
        return end() - (bytes + alignment - 1) / alignment * alignment;
    }

  private:
    static constexpr size_t PAGE = 65536; // a multiple of every system's
    size_t size_;
    unsigned char* first_;
};

// ---- Fibers --------------------------------------------------------------------------

/// What the CUDA model leaves open.
struct Schedule {
    bool backwards;    // the last thread of a block runs first
    bool late_copies;  // asynchronous copies happen when they are waited for, not at once
};
inline Schedule schedule{};

/// Threads that wait for each other; `turn` counts how often all have arrived.
struct Barrier {
    unsigned arrived = 0, turn = 0;
};

/// A warp's operands and results of the collective operation in progress. They are apart:
/// a lane may bring operands for the next one before another has read its results.
struct Warp {
    Barrier barrier;
    uint32_t in[32][12], out[32][4];
};

struct Copy {
    unsigned char* to;
    const void* from;
    bool valid;
};

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    std::unique_ptr<char[]> stack;
    bool started = false, done = false;
    const unsigned* turn = nullptr; // waits while *turn is `seen`
    unsigned seen = 0;
    std::deque<std::vector<Copy>> copies; // by group; the last is open
};

constexpr size_t STACK = 128 << 10, SHARED = 228 << 10, MAX_THREADS = 1024;

struct State {
    std::vector<Fiber> fibers{MAX_THREADS};
    Warp warps[MAX_THREADS / 32];
    Barrier block;
    jmp_buf home;
    unsigned threads = 0, running = 0;
    std::function<void()> kernel;
    Pages shared{SHARED};
    unsigned char* dynamic = nullptr;
    size_t bank_conflicts = 0;
};

inline State state;

inline Fiber& self() { return state.fibers[state.running]; }
inline Warp& warp() { return state.warps[state.running / 32]; }
inline unsigned lane() { return state.running % 32; }

inline void pause() {
    if (_setjmp(self().at) == 0) _longjmp(state.home, 1);
}

/// A fiber's life: one thread of each block.
inline void live() {
    for (;;) {
        state.kernel();
        for (const auto& group : self().copies) {
            if (!group.empty()) fail("a thread ends before its copies");
        }
        self().done = true;
        pause();
    }
}

inline void start(Fiber& fiber) {
    fiber.started = true;
    fiber.stack.reset(new char[STACK]);
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, live, 0);
    setcontext(&fiber.start);
}

/// Runs a thread until it waits or ends.
inline void resume(unsigned thread) {
    State& s = state;
    s.running = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                 thread / (blockDim.x * blockDim.y)};
    Fiber& fiber = s.fibers[thread];
    if (_setjmp(s.home)) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    start(fiber);
}

/// Waits until `count` threads have arrived; the last of them first calls `then`.
template <class F> void arrive(Barrier& barrier, unsigned count, F then) {
    if (++barrier.arrived == count) {
        then();
        barrier.arrived = 0;
        ++barrier.turn;
        return;
    }
    self().seen = barrier.turn;
    self().turn = &barrier.turn;
    pause();
    self().turn = nullptr;
}

inline void run_block() {
    State& s = state;
    memset(s.shared.begin(), 0xff, SHARED);
    s.block = {};
    for (Warp& warp : s.warps) warp.barrier = {};
    for (unsigned i = 0; i < s.threads; ++i) {
        s.fibers[i].done = false;
        s.fibers[i].turn = nullptr;
        s.fibers[i].copies.assign(1, {});
    }
    for (unsigned left = s.threads; left > 0;) {
        bool progress = false;
        for (unsigned i = 0; i < s.threads; ++i) {
            const unsigned thread = schedule.backwards ? s.threads - 1 - i : i;
            Fiber& fiber = s.fibers[thread];
            if (fiber.done || (fiber.turn && *fiber.turn == fiber.seen)) continue;
            resume(thread);
            progress = true;
            left -= fiber.done;
        }
        if (!progress) fail("threads wait at a barrier that others never reach");
    }
}

/// Runs a kernel, called by `kernel`, for every thread of a grid.
inline void launch(dim3 grid, dim3 threads, size_t shared, std::function<void()> kernel) {
    State& s = state;
    s.kernel = std::move(kernel);
    s.threads = threads.x * threads.y * threads.z;
    if (s.threads > MAX_THREADS || shared > SHARED - 1024) fail("the block is too large");
    s.dynamic = s.shared.last(shared, 128);
    gridDim = grid;
    blockDim = threads;
    for (unsigned z = 0; z < grid.z; ++z) {
        for (unsigned y = 0; y < grid.y; ++y) {
            for (unsigned x = 0; x < grid.x; ++x) {
                blockIdx = {x, y, z};
                run_block();
            }
        }
    }
}

/// Calls a test under schedules that have every order of threads and of copies.
template <class F> void every_schedule(F test) {
    for (bool flag : {false, true}) {
        schedule = {flag, flag};
        test();
    }
}

/// How often matrix loads read two rows from one bank, since the program began.
inline size_t bank_conflicts() { return state.bank_conflicts; }

// ---- Collective operations of a warp -------------------------------------------------

/// Every lane brings `in`; when all have, one calls `compute`, which reads and writes the
/// warp's operands and results; then every lane reads `out`.
template <int IN, int OUT, class F>
void collective(const uint32_t (&in)[IN], uint32_t (&out)[OUT], F compute) {
    memcpy(warp().in[lane()], in, sizeof in);
    arrive(warp().barrier, 32, [&] { compute(warp()); });
    memcpy(out, warp().out[lane()], sizeof out);
}

template <class T, class F> T shuffle(T value, F source) {
    static_assert(sizeof(T) == 4, "only 32 bits are shuffled");
    uint32_t in[1], out[1];
    memcpy(in, &value, 4);
    // The source lane is an operand too: it may differ from lane to lane.
    const uint32_t operands[2] = {in[0], source(lane())};
    collective(operands, out, [](Warp& warp) {
        for (int i = 0; i < 32; ++i) warp.out[i][0] = warp.in[warp.in[i][1] % 32][0];
    });
    memcpy(&value, out, 4);
    return value;
}

inline unsigned char* shared_pointer(uint32_t address, size_t alignment) {
    if (address % alignment) fail("an address in shared memory is not aligned");
    return state.shared.begin() + address;
}

template <int MATRICES, bool TRANSPOSED> void ldmatrix(uint32_t (&r)[MATRICES], uint32_t at) {
    const uint32_t in[1] = {at};
    collective(in, r, [](Warp& warp) {
        for (int matrix = 0; matrix < MATRICES; ++matrix) {
            uint16_t values[8][8];
            unsigned banks = 0;
            for (int row = 0; row < 8; ++row) {
                const uint32_t address = warp.in[8 * matrix + row][0];
                memcpy(values[row], shared_pointer(address, 16), 16);
                const unsigned bank = 1u << (address / 16 % 8);
                state.bank_conflicts += (banks & bank) != 0;
                banks |= bank;
            }
            for (int lane = 0; lane < 32; ++lane) {
                const int i = lane / 4, j = lane % 4 * 2;
                const uint16_t low = TRANSPOSED ? values[j][i] : values[i][j];
                const uint16_t high = TRANSPOSED ? values[j + 1][i] : values[i][j + 1];
                warp.out[lane][matrix] = low | uint32_t(high) << 16;
            }
        }
    });
}

template <class T> float half_of(uint32_t pair, int half) {
    const T value{uint16_t(pair >> 16 * half)};
    if constexpr (std::is_same<T, __half>::value) return __half2float(value);
    else return __bfloat162float(value);
}

template <class T> void warp_mma(Warp& warp) {
    float a[16][16], b[16][8]; // lane = 4 g + t
    for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i) {
                a[g + i % 2 * 8][2 * t + half + i / 2 * 8] = half_of<T>(warp.in[lane][i], half);
            }
            for (int i = 0; i < 2; ++i) {
                b[2 * t + half + i * 8][g] = half_of<T>(warp.in[lane][4 + i], half);
            }
        }
    }
    float c[16][8] = {};
    for (int i = 0; i < 16; ++i) {
        for (int k = 0; k < 16; ++k) {
            for (int j = 0; j < 8; ++j) c[i][j] += a[i][k] * b[k][j];
        }
    }
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const float sum = __uint_as_float(warp.in[lane][6 + i]);
            const float product = c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
            warp.out[lane][i] = __float_as_uint(sum + product);
        }
    }
}

// ---- The instructions of device.cuh --------------------------------------------------

template <class T> void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    uint32_t in[10] = {a[0], a[1], a[2], a[3], b0, b1}, out[4];
    memcpy(in + 6, c, sizeof c);
    collective(in, out, warp_mma<T>);
    memcpy(c, out, sizeof c);
}

/// As a product of depth 16 with zeros.
template <class T> void mma_8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    mma<T>(c, {a0, a1, 0, 0}, b0, 0);
}

inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t at) { ldmatrix<4, false>(r, at); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t at) { ldmatrix<4, true>(r, at); }
inline void ldmatrix_x2(uint32_t (&r)[2], uint32_t at) { ldmatrix<2, false>(r, at); }
inline void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t at) { ldmatrix<2, true>(r, at); }

inline unsigned char* dynamic_shared() { return state.dynamic; }

inline uint32_t shared_address(const void* pointer) {
    return uint32_t((const unsigned char*)pointer - state.shared.begin());
}

inline float exp2_approximate(float x) { return std::exp2(x); }

inline void perform(const Copy& copy) {
    if (copy.valid) memcpy(copy.to, copy.from, 16);
    else memset(copy.to, 0, 16);
}

inline void cp_async_16(uint32_t to, const void* from, bool valid) {
    if (valid && uintptr_t(from) % 16) fail("an asynchronous copy is not aligned");
    const Copy copy{shared_pointer(to, 16), from, valid};
    if (schedule.late_copies) self().copies.back().push_back(copy);
    else perform(copy);
}

inline void cp_async_16_cached(uint32_t to, const void* from, bool valid) { cp_async_16(to, from, valid); }

inline void cp_async_commit() { self().copies.emplace_back(); }

template <int N> void cp_async_wait() {
    auto& copies = self().copies;
    for (; copies.size() > N + 1; copies.pop_front()) {
        for (const Copy& copy : copies.front()) perform(copy);
    }
}

} // namespace emulation

// ---- CUDA's functions ----------------------------------------------------------------

inline void __syncthreads() {
    emulation::arrive(emulation::state.block, emulation::state.threads, [] {});
}

inline void __syncwarp(unsigned = ~0u) { emulation::arrive(emulation::warp().barrier, 32, [] {}); }

template <class T> T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::shuffle(value, [=](unsigned lane) { return lane ^ unsigned(mask); });
}

template <class T> T __shfl_sync(unsigned, T value, int from) {
    return emulation::shuffle(value, [=](unsigned) { return unsigned(from); });
}

template <class T> T __shfl_down_sync(unsigned, T value, int step) {
    return emulation::shuffle(value, [=](unsigned lane) {
        return lane + step < 32 ? lane + step : lane;
    });
}

inline int __any_sync(unsigned, int condition) {
    const uint32_t in[1] = {condition != 0};
    uint32_t out[1];
    emulation::collective(in, out, [](emulation::Warp& warp) {
        uint32_t any = 0;
        for (int i = 0; i < 32; ++i) any |= warp.in[i][0];
        for (int i = 0; i < 32; ++i) warp.out[i][0] = any;
    });
    return out[0] != 0;
}

template <class T> T __ldg(const T* from) { return *from; }

inline float atomicAdd(float* to, float value) {
    const float before = *to;
    *to += value;
    return before;
}

inline int atomicAdd(int* to, int value) {
    const int before = *to;
    *to += value;
    return before;
}
