// Projections through voxels, their exact transpose, and the backprojection of cone-beam views, on a GPU.
//
// The definitions and the arrays are those of kernels/ct_project.py, kernels/ct_cone.py and kernels/smoothness.py. There
// is no shared memory and no barrier, so that the tests compile and run this text on a CPU (tests/kernels/cuda_host.h).
// REAL is float or double; backprojection of views is single precision.

#ifndef REAL
#define REAL float
#endif
typedef REAL real;

// Joseph's method walks from plane to plane of voxel centres. Where the ray is across is kept as a fixed-point number
// with 32 bits behind the point: exact to 1e-7 voxels after 500 steps on any GPU, single precision would be to 1e-4.
struct Way {
    int first, last;                  // planes, and the one after the last
    long long across, step;           // where the ray is in the first plane, and its way to the next one [voxels / 2^32]
    double t, dt;                     // the same along the ray: 0 at the spot, 1 at the channel
    long long start;                  // index of the first voxel of the first plane
    int along, sideways, width;       // voxels in memory from plane to plane and from column to column; columns across
    double per_plane;                 // from plane to plane along an axis, over the ray's extent along that axis
};

__device__ void between(double start, double step, double low, double high, int &first, int &last)
{
    if (fabs(step) < 1e-12) {
        if (!(low < start && start < high)) last = first;
        return;
    }
    double a = (low - start) / step, b = (high - start) / step;
    double enter = a < b ? a : b, leave = a < b ? b : a;
    enter = fmin(fmax(enter, first - 1.0), (double)last);
    leave = fmax(fmin(leave, (double)last), first - 1.0);
    int from = (int)floor(enter) + 1, to = (int)ceil(leave);
    first = from > first ? from : first;
    last = to < last ? to : last;
}

__device__ Way way_of(const double *place, const double *spot, const double *end, int ny, int nx, int nz)
{
    Way w;
    double dx = end[0] - spot[0], dy = end[1] - spot[1], t0, f0, df;
    bool along_x = fabs(dx) >= fabs(dy);
    if (along_x) {
        t0 = (place[0] - spot[0]) / dx;
        w.dt = place[1] / dx;
        f0 = (spot[1] + t0 * dy - place[2]) / place[3];
        df = w.dt * dy / place[3];
        w.along = nz, w.sideways = nx * nz, w.width = ny, w.first = 0, w.last = nx;
        w.per_plane = place[1] / fabs(dx);
    } else {
        t0 = (place[2] - spot[1]) / dy;
        w.dt = place[3] / dy;
        f0 = (spot[0] + t0 * dx - place[0]) / place[1];
        df = w.dt * dx / place[1];
        w.along = nx * nz, w.sideways = nz, w.width = nx, w.first = 0, w.last = ny;
        w.per_plane = place[3] / fabs(dy);
    }
    between(f0, df, -1.0, (double)w.width, w.first, w.last);
    between(t0, w.dt, 0.0, 1.0, w.first, w.last);
    if (w.first >= w.last) return w;
    w.across = (long long)floor((f0 + w.first * df) * 4294967296.0);
    w.step = (long long)floor(df * 4294967296.0 + 0.5);
    w.t = t0 + w.first * w.dt;
    w.start = (long long)w.first * w.along;
    return w;
}

// One ray of view, row and channel, and what it needs along z: index of the plane of voxels where it starts, its step.
struct Ray {
    Way way;
    real z, dz, length; // length: from plane to plane along the ray [mm]
    long long at;       // index of (view, row, channel)
};

__device__ bool ray_of(const double *place, const double *spots, const double *columns, const double *heights,
                       const int *sizes, Ray &ray)
{
    int n_rows = sizes[4], n_channels = sizes[5];
    long long row_tiles = (n_rows + blockDim.x - 1) / blockDim.x, tiles = (n_channels + blockDim.y - 1) / blockDim.y;
    long long view = blockIdx.x / (row_tiles * tiles), tile = blockIdx.x % (row_tiles * tiles);
    int row = (int)(tile % row_tiles * blockDim.x + threadIdx.x);
    int channel = (int)(tile / row_tiles * blockDim.y + threadIdx.y);
    if (row >= n_rows || channel >= n_channels) return false;
    const double *spot = spots + 3 * view, *end = columns + 3 * (view * n_channels + channel);
    ray.at = (view * n_rows + row) * n_channels + channel;
    ray.way = way_of(place, spot, end, sizes[0], sizes[1], sizes[2]);
    double dx = end[0] - spot[0], dy = end[1] - spot[1], dz = end[2] + heights[row] - spot[2];
    ray.length = (real)(ray.way.per_plane * sqrt(dx * dx + dy * dy + dz * dz));
    if (ray.way.first >= ray.way.last) return true;
    ray.z = (real)((spot[2] + ray.way.t * dz - place[4]) / place[5]);
    ray.dz = (real)(ray.way.dt * dz / place[5]);
    return true;
}

// Where a plane is sampled: a voxel in the column before the ray, one in the column after it, the way to those above
// them, and the weights. Beside the volume a column's weight is 0, and the index is that of any voxel.
struct Sample {
    long long near, after;
    int up;
    real near_weight, after_weight, part;
};

__device__ Sample sample_of(const Ray &ray, int n, int nz)
{
    Sample s;
    const Way &w = ray.way;
    long long across = w.across + n * w.step;
    int j = (int)(across >> 32), inside = j > 0 ? j : 0;
    inside = inside < w.width ? inside : w.width - 1;
    real after = (real)(unsigned int)across * (real)2.3283064365386963e-10;
    s.near_weight = (unsigned int)j < (unsigned int)w.width ? 1 - after : 0;
    s.after_weight = (unsigned int)(j + 1) < (unsigned int)w.width ? after : 0;
    real z = ray.z + n * ray.dz, top = (real)(nz - 1);
    z = z > 0 ? z : 0;
    z = z < top ? z : top;
    int low = (int)z;
    s.part = z - low;
    s.up = low + 1 < nz ? 1 : 0;
    s.near = w.start + (long long)n * w.along + (long long)inside * w.sideways + low;
    s.after = s.near + ((unsigned int)j < (unsigned int)(w.width - 1) ? w.sideways : 0);
    return s;
}

// A thread is a ray; the threads of a block are neighbouring rows (x) of neighbouring channels (y), and a block is one
// of those that cover a view. sizes: ny, nx, nz, views, rows, channels. Voxels are (y, x, z), lines (view, row, channel).
extern "C" __global__ void project(const real *volume, const double *place, const double *spots,
                                   const double *columns, const double *heights, real *lines, const int *sizes)
{
    Ray ray;
    if (!ray_of(place, spots, columns, heights, sizes, ray)) return;
    real total = 0;
    for (int n = 0; n < ray.way.last - ray.way.first; n++) {
        Sample s = sample_of(ray, n, sizes[2]);
        const real *near = volume + s.near, *after = volume + s.after;
        real low = s.near_weight * near[0] + s.after_weight * after[0];
        real high = s.near_weight * near[s.up] + s.after_weight * after[s.up];
        total += low + s.part * (high - low);
    }
    lines[ray.at] = total * ray.length;
}

__device__ void add(real *voxel, int up, real low, real high)
{
    if (low != 0) atomicAdd(voxel, low);
    if (high != 0) atomicAdd(voxel + up, high);
}

// The transpose of `project`: the same samples with the same weights, added to the voxels.
extern "C" __global__ void smear(const real *lines, const double *place, const double *spots, const double *columns,
                                 const double *heights, real *volume, const int *sizes)
{
    Ray ray;
    if (!ray_of(place, spots, columns, heights, sizes, ray)) return;
    real value = lines[ray.at] * ray.length;
    if (value == 0) return;
    for (int n = 0; n < ray.way.last - ray.way.first; n++) {
        Sample s = sample_of(ray, n, sizes[2]);
        real high = s.part * value, low = value - high;
        add(volume + s.near, s.up, s.near_weight * low, s.near_weight * high);
        add(volume + s.after, s.up, s.after_weight * low, s.after_weight * high);
    }
}

// Channel in which a point is seen, and its distance, from how far away it is along the central ray and across it.
struct Flat {
    static __device__ void see(float away, float across, float scale, float &channel, float &distance)
    {
        channel = across / away * scale;
        distance = away;
    }
};

struct Cylinder {
    static __device__ void see(float away, float across, float scale, float &channel, float &distance)
    {
        channel = atan2f(across, away) * scale;
        distance = sqrtf(away * away + across * across);
    }
};

#define PLANES 16 // planes above each other that a thread adds up

// A thread is a column of PLANES voxels, which share their channel and weight in a view.
// turns: cosine and sine of each view. detector: distances of the spot to axis and detector, channel and row of the
// central ray, distance of channels and rows. place: first voxel and distance, x, y, z. sizes: nz, ny, nx, views, rows,
// channels, stored channels.
template <class Detector>
__device__ void backproject(const float *views, const float *turns, const float *detector, const float *place,
                            float *volume, const int *sizes)
{
    int nz = sizes[0], ny = sizes[1], nx = sizes[2], n_rows = sizes[4], n_channels = sizes[5], stored = sizes[6];
    int ix = blockIdx.x * blockDim.x + threadIdx.x, iy = blockIdx.y * blockDim.y + threadIdx.y;
    int first = blockIdx.z * PLANES;
    if (ix >= nx || iy >= ny) return;
    float x = place[0] + ix * place[1], y = place[2] + iy * place[3], z = place[4] + first * place[5];
    float far = detector[0], per_mm = detector[1] / detector[4], magnified = detector[1] / detector[5];
    float last = (float)(n_channels - 1), top = (float)(n_rows - 1);
    int last_pair = n_channels > 1 ? n_channels - 2 : 0, last_row = n_rows > 1 ? n_rows - 2 : 0;
    int below = n_rows > 1 ? stored : 0;
    float total[PLANES];
#pragma unroll
    for (int k = 0; k < PLANES; k++) total[k] = 0;
    for (int v = 0; v < sizes[3]; v++) {
        float cosine = turns[2 * v], sine = turns[2 * v + 1], channel, distance;
        Detector::see(far - x * cosine - y * sine, y * cosine - x * sine, per_mm, channel, distance);
        channel += detector[2];
        if (!(channel >= -0.5f && channel <= last + 0.5f)) continue;
        channel = fminf(fmaxf(channel, 0.0f), last);
        int c = (int)channel;
        c = c < last_pair ? c : last_pair;
        float weight = far / distance, scale = magnified / distance;
        weight *= weight;
        float right = weight * (channel - c), left = weight - right;
        float row = detector[3] + z * scale, step = place[5] * scale;
        const float *upper = views + (long long)v * n_rows * stored + c, *lower = upper + below;
#pragma unroll
        for (int k = 0; k < PLANES; k++) {
            float at = fminf(fmaxf(row + k * step, 0.0f), top);
            int r = (int)at;
            r = r < last_row ? r : last_row;
            const float *one = upper + r * stored, *other = lower + r * stored;
            float low = left * one[0] + right * one[1], high = left * other[0] + right * other[1];
            total[k] += low + (at - r) * (high - low);
        }
    }
#pragma unroll
    for (int k = 0; k < PLANES; k++)
        if (first + k < nz) volume[((long long)(first + k) * ny + iy) * nx + ix] += total[k];
}

extern "C" __global__ void backproject_flat(const float *views, const float *turns, const float *detector,
                                            const float *place, float *volume, const int *sizes)
{
    backproject<Flat>(views, turns, detector, place, volume, sizes);
}

extern "C" __global__ void backproject_cylinder(const float *views, const float *turns, const float *detector,
                                                const float *place, float *volume, const int *sizes)
{
    backproject<Cylinder>(views, turns, detector, place, volume, sizes);
}

// Slope and curvature of the prior that keeps edges, kernels/smoothness.py. sizes: nz, ny, nx, neighbours.
extern "C" __global__ void hyperbola(const real *volume, const int *steps, const real *weights, const real *edges,
                                     real *slope, real *bend, const int *sizes)
{
    int nz = sizes[0], ny = sizes[1], nx = sizes[2];
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y, z = blockIdx.z;
    if (x >= nx || y >= ny) return;
    long long at = ((long long)z * ny + y) * nx + x;
    real here = volume[at], down = 0, bent = 0;
    for (int n = 0; n < sizes[3]; n++) {
        int z2 = z + steps[3 * n], y2 = y + steps[3 * n + 1], x2 = x + steps[3 * n + 2];
        if (z2 < 0 || z2 >= nz || y2 < 0 || y2 >= ny || x2 < 0 || x2 >= nx) continue;
        real d = here - volume[((long long)z2 * ny + y2) * nx + x2];
        real stiff = weights[n] / sqrt(1 + d * d / (edges[n] * edges[n]));
        down += stiff * d;
        bent += 2 * stiff;
    }
    slope[at] += down;
    bend[at] += bent;
}
