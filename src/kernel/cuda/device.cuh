// What the kernels share: types, conversions, and wrappers of the instructions that CUDA
// C++ has no functions for: asynchronous copies, matrix loads and matrix products.
//
// nvcc compiles them to the instructions; a C++ compiler includes their emulation
// instead, with which tests/cuda runs the kernels on the processor.
//
// Vectors of 8 values are read and written at once: rows, and the beginnings of tensors,
// lie at multiples of 16 bytes.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#else
#include "../../../tests/cuda/emulation.h"
#endif

using f16 = __half;
using bf16 = __nv_bfloat16;

constexpr int WARP = 32;

// ---- Conversions: one value, a pair in a register, eight in memory -------------------

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }

/// Two values in the halves of a register, the first in the low half.
template <class T> __device__ __forceinline__ uint32_t pack(float low, float high);
template <class T> __device__ __forceinline__ float2 unpack(uint32_t pair);

/// Eight values of consecutive addresses, in one access of 16 bytes (two for f32).
template <class T> __device__ __forceinline__ void load8(float (&x)[8], const T* from) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 pair = unpack<T>(pairs[i]);
        x[2 * i] = pair.x;
        x[2 * i + 1] = pair.y;
    }
}

template <> __device__ __forceinline__ void load8(float (&x)[8], const float* from) {
    const float4 a = reinterpret_cast<const float4*>(from)[0];
    const float4 b = reinterpret_cast<const float4*>(from)[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
}

template <class T> __device__ __forceinline__ void store8(T* to, const float (&x)[8]) {
    *reinterpret_cast<uint4*>(to) = make_uint4(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]),
                                               pack<T>(x[4], x[5]), pack<T>(x[6], x[7]));
}

template <> __device__ __forceinline__ void store8(float* to, const float (&x)[8]) {
    reinterpret_cast<float4*>(to)[0] = make_float4(x[0], x[1], x[2], x[3]);
    reinterpret_cast<float4*>(to)[1] = make_float4(x[4], x[5], x[6], x[7]);
}

// ---- Warps ---------------------------------------------------------------------------

/// The sum over the lanes of each aligned group of `LANES`, in all of them.
template <int LANES = WARP> __device__ __forceinline__ float lanes_sum(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/// The maximum over the lanes of each aligned group of `LANES`, in all of them.
template <int LANES = WARP> __device__ __forceinline__ float lanes_max(float x) {
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) {
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    }
    return x;
}

// ---- Instructions --------------------------------------------------------------------
//
// dynamic_shared()               the block's dynamic shared memory
// shared_address(p)              the address in shared memory of a pointer into it
// exp2_approximate(x)            2^x to about 2 ulp, 0 at minus infinity
// cp_async_16(to, from, valid)   begins to copy 16 bytes to a shared address; zeros, and
//                                nothing is read, unless valid
// cp_async_16_cached(..)         the same through the L1 cache
// cp_async_commit()              ends a group of the thread's copies
// cp_async_wait<N>()             waits for all but the N newest groups of the thread
// ldmatrix_x4(r, at)             loads four 8x8 matrices of 16-bit values: lane 8 i + j
//                                gives the shared address of row j (16 bytes) of matrix i;
//                                r[i] is lane l's pair of it: row l / 4, columns 2 (l % 4)
//                                and the next. _x2: two matrices, lanes 0 to 15 address.
//                                _trans: of the transposed matrices
// mma<T>(c, a, b0, b1)           c (16, 8) += a (16, 16) b (16, 8), sums in f32. With
//                                g = lane / 4 and t = lane % 4: a[0] holds row g, columns
//                                2 t and the next; a[1] row g + 8; a[2] and a[3] the same
//                                of columns + 8; b0 holds rows 2 t and the next of column
//                                g; b1 of rows + 8; c[0], c[1] row g, columns 2 t and the
//                                next; c[2], c[3] row g + 8
// mma_8<T>(c, a0, a1, b0)        the same of a (16, 8) and b (8, 8)

#ifdef __CUDACC__

template <> __device__ __forceinline__ uint32_t pack<f16>(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <> __device__ __forceinline__ uint32_t pack<bf16>(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

template <> __device__ __forceinline__ float2 unpack<f16>(uint32_t pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

template <> __device__ __forceinline__ float2 unpack<bf16>(uint32_t pair) {
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

__device__ __forceinline__ unsigned char* dynamic_shared() {
    extern __shared__ __align__(128) unsigned char memory[];
    return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ float exp2_approximate(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void cp_async_16(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_16_cached(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at));
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(at));
}

template <class T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ __forceinline__ void mma<f16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<bf16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <class T>
__device__ __forceinline__ void mma_8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0);

template <>
__device__ __forceinline__ void mma_8<f16>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
}

template <>
__device__ __forceinline__ void mma_8<bf16>(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b0));
}

#else

template <> inline uint32_t pack<f16>(float low, float high) {
    return __float2half_rn(low).bits | uint32_t(__float2half_rn(high).bits) << 16;
}

template <> inline uint32_t pack<bf16>(float low, float high) {
    return __float2bfloat16_rn(low).bits | uint32_t(__float2bfloat16_rn(high).bits) << 16;
}

template <> inline float2 unpack<f16>(uint32_t pair) {
    return {to_f32(f16{uint16_t(pair)}), to_f32(f16{uint16_t(pair >> 16)})};
}

template <> inline float2 unpack<bf16>(uint32_t pair) {
    return {to_f32(bf16{uint16_t(pair)}), to_f32(bf16{uint16_t(pair >> 16)})};
}

using emulation::cp_async_16;
using emulation::cp_async_16_cached;
using emulation::cp_async_commit;
using emulation::cp_async_wait;
using emulation::dynamic_shared;
using emulation::exp2_approximate;
using emulation::ldmatrix_x2;
using emulation::ldmatrix_x2_trans;
using emulation::ldmatrix_x4;
using emulation::ldmatrix_x4_trans;
using emulation::mma;
using emulation::mma_8;
using emulation::shared_address;

#endif
