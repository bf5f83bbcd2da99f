// What CUDA gives a kernel, for one thread at a time on a CPU.
#include <math.h>

#define __global__
#define __device__

struct Index {
    unsigned int x, y, z;
};

static Index blockIdx, threadIdx, blockDim, gridDim;

template <class T> T atomicAdd(T *at, T value)
{
    T before = *at;
    *at = before + value;
    return before;
}

template <class Thread> void every_thread(const unsigned int *grid, const unsigned int *block, Thread thread)
{
    gridDim = Index{grid[0], grid[1], grid[2]};
    blockDim = Index{block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++)
                for (threadIdx.z = 0; threadIdx.z < blockDim.z; threadIdx.z++)
                    for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
                        for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) thread();
}
