#!/usr/bin/env bash
# Makes CUDA builds that start where CUDA is not installed, on x86-64 Linux:
#
#     . .github/cuda.sh DIR && .github/cuda-loaders.sh DIR
#     cargo build --release --features cuda
#
# candle-core has the feature `dynamic-linking` of cudarc switched on, which excludes
# `dynamic-loading`: the system refuses to start what it links without NVIDIA's libraries.
# So static libraries of the same names are linked in place of them. Each function of theirs
# loads the real library when it is first called, and jumps to the real function; without
# the library it returns an error. libcudart is the static one of NVIDIA's wheel.
set -euo pipefail
[ $# = 1 ] || { echo "usage: .github/cuda-loaders.sh DIR, after . .github/cuda.sh DIR" >&2; exit 2; }
home=$1/nvidia/cu13
[ -d "$home/lib64/stubs" ] || { echo "$1: run . .github/cuda.sh $1 first" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# cudarc searches this folder before the one of the stubs.
mkdir -p "$home/lib/stubs"

# loader LIBRARY SONAME STATUS: a static LIBRARY with the functions of the stub, which return
# STATUS where SONAME is not installed.
loader() {
    local names functions=$work/$1.s
    names=$(nm -D --defined-only "$home/lib64/stubs/lib$1.so" | awk '$2 == "T" && $3 != "culib" { print $3 }')
    awk -v library="$1" '
        BEGIN { print ".section .note.GNU-stack,\"\",@progbits" }
        {
            slot = library "_slots+" 8 * (NR - 1) "(%rip)"
            print ".text\n.globl " $0 "\n.type " $0 ",@function\n" $0 ":"
            print "    mov " slot ", %r11\n    test %r11, %r11\n    jz 1f\n    jmp *%r11"
            print "1:  mov $" NR - 1 ", %r11d\n    jmp " library "_first"
        }
        END {
            # Keeps the arguments, which are in registers, while the function is looked up.
            print library "_first:"
            split("rdi rsi rdx rcx r8 r9 rax r10", kept, " ")
            for (i = 1; i <= 8; i++) print "    push %" kept[i]
            print "    sub $136, %rsp"
            for (i = 0; i < 8; i++) print "    movups %xmm" i ", " 16 * i "(%rsp)"
            print "    mov %r11d, %edi\n    call " library "_find\n    mov %rax, %r11"
            for (i = 0; i < 8; i++) print "    movups " 16 * i "(%rsp), %xmm" i
            print "    add $136, %rsp"
            for (i = 8; i >= 1; i--) print "    pop %" kept[i]
            print "    jmp *%r11"
            print ".bss\n.balign 8\n.globl " library "_slots\n" library "_slots: .zero " 8 * NR
        }' <<<"$names" >"$functions"
    {
        echo '#include <dlfcn.h>'
        echo "extern void *volatile $1_slots[];"
        echo 'static const char *const names[] = {'
        sed 's/.*/    "&",/' <<<"$names"
        echo '};'
        echo "static int missing(void) { return $3; }"
        echo "__attribute__((visibility(\"hidden\"))) void *$1_find(int index) {"
        echo "    void *library = dlopen(\"$2\", RTLD_LAZY | RTLD_LOCAL);"
        echo '    void *found = library ? dlsym(library, names[index]) : 0;'
        echo "    return $1_slots[index] = found ? found : (void *)missing;"
        echo '}'
    } >"$work/$1.c"
    cc -O2 -fPIC -c "$work/$1.c" -o "$work/$1-find.o"
    cc -c "$functions" -o "$work/$1.o"
    rm -f "$home/lib/stubs/lib$1.a"
    ar rcs "$home/lib/stubs/lib$1.a" "$work/$1.o" "$work/$1-find.o"
}

loader cuda libcuda.so.1 100      # CUDA_ERROR_NO_DEVICE
loader cublas libcublas.so.13 1   # CUBLAS_STATUS_NOT_INITIALIZED
loader cublasLt libcublasLt.so.13 1
loader curand libcurand.so.10 101 # CURAND_STATUS_NOT_INITIALIZED
loader nvrtc libnvrtc.so.13 5     # NVRTC_ERROR_INVALID_OPTION
ln -sf ../libcudart_static.a "$home/lib/stubs/libcudart.a"
