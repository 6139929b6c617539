// The limit: federated averaging with nothing between it and the machine. One client at a time, its
// weights and one mini-batch in cache; clients are shared out among threads, the largest first.
//
// Networks: softmax regression (hidden = 0), or one hidden layer of ReLUs. A layer is kept as
// (inputs, outputs), the outputs filled up to whole vectors: what a row of a mini-batch adds to its
// outputs is one multiply-add of a few vectors per input.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16;  // floats in a vector
constexpr int SUMS = 16;   // of the processor's vectors, those that hold sums
#else
constexpr int LANES = 8;
constexpr int SUMS = 8;
#endif
constexpr int together(int vectors, int most) {  // rows, or inputs, that share a load
  return std::max(1, std::min(most, SUMS / vectors));
}
typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), may_alias));

int filled(int n) {  // to 1, 2, 4, 8 or 16 vectors
  int width = LANES;
  while (width < n) width *= 2;
  return width;
}

const Vector& at(const float* p) { return *reinterpret_cast<const Vector*>(p); }
Vector& at(float* p) { return *reinterpret_cast<Vector*>(p); }

struct Buffer {  // floats that begin where a cache line does
  struct alignas(LANES * sizeof(float)) Line {
    float lanes[LANES];
  };
  std::vector<Line> lines;

  explicit Buffer(size_t floats, float value = 0.f) : lines(floats / LANES) {
    std::fill(data(), data() + floats, value);
  }
  float* data() { return lines.data()->lanes; }
  const float* data() const { return lines.data()->lanes; }
  float& operator[](size_t i) { return data()[i]; }
  float operator[](size_t i) const { return data()[i]; }
};

// out[r] = bias + x[r] w for N rows, outputs of V vectors
template <int V, int N>
inline void rows_forward(const float* const* x, const float* w, const float* bias, int inputs,
                         float* out) {
  Vector sum[N][V];
  for (int r = 0; r < N; r++)
    for (int v = 0; v < V; v++) sum[r][v] = at(bias + v * LANES);
  for (int i = 0; i < inputs; i++, w += V * LANES) {
    Vector row[V];
    for (int v = 0; v < V; v++) row[v] = at(w + v * LANES);
    for (int r = 0; r < N; r++)
      for (int v = 0; v < V; v++) sum[r][v] += x[r][i] * row[v];
  }
  for (int r = 0; r < N; r++)
    for (int v = 0; v < V; v++) at(out + (r * V + v) * LANES) = sum[r][v];
}

template <int V>
void forward(const float* const* x, int rows, const float* w, const float* bias, int inputs,
             float* out) {
  constexpr int N = together(V, 4);
  int r = 0;
  for (; r + N <= rows; r += N) rows_forward<V, N>(x + r, w, bias, inputs, out + r * V * LANES);
  for (; r < rows; r++) rows_forward<V, 1>(x + r, w, bias, inputs, out + r * V * LANES);
}

void forward_rows(int width, const float* const* x, int rows, const float* w, const float* bias,
                  int inputs, float* out) {
  switch (width / LANES) {
    case 1: return forward<1>(x, rows, w, bias, inputs, out);
    case 2: return forward<2>(x, rows, w, bias, inputs, out);
    case 4: return forward<4>(x, rows, w, bias, inputs, out);
    case 8: return forward<8>(x, rows, w, bias, inputs, out);
    default: return forward<16>(x, rows, w, bias, inputs, out);
  }
}

// w[i] += sum over the rows of x[r][i] slope[r], for N inputs
template <int V, int N>
inline void inputs_backward(const float* const* x, int rows, const float* slope, int i, float* w) {
  Vector sum[N][V];
  for (int n = 0; n < N; n++)
    for (int v = 0; v < V; v++) sum[n][v] = at(w + ((i + n) * V + v) * LANES);
  for (int r = 0; r < rows; r++, slope += V * LANES) {
    Vector row[V];
    for (int v = 0; v < V; v++) row[v] = at(slope + v * LANES);
    for (int n = 0; n < N; n++)
      for (int v = 0; v < V; v++) sum[n][v] += x[r][i + n] * row[v];
  }
  for (int n = 0; n < N; n++)
    for (int v = 0; v < V; v++) at(w + ((i + n) * V + v) * LANES) = sum[n][v];
}

template <int V>
void backward(const float* const* x, int rows, const float* slope, int inputs, float* w) {
  constexpr int N = together(V, 8), FEWER = together(V, 4);
  int i = 0;
  for (; i + N <= inputs; i += N) inputs_backward<V, N>(x, rows, slope, i, w);
  for (; i + FEWER <= inputs; i += FEWER) inputs_backward<V, FEWER>(x, rows, slope, i, w);
  for (; i < inputs; i++) inputs_backward<V, 1>(x, rows, slope, i, w);
}

struct Layer {
  int inputs, outputs, width;  // width: outputs, filled up
  Buffer w, bias;

  Layer(int inputs, int outputs, float fill = 0.f)
      : inputs(inputs), outputs(outputs), width(filled(outputs)),
        w(static_cast<size_t>(inputs) * width), bias(width, fill) {}

  // torch's order: (outputs, inputs), then the bias
  const float* load(const float* from) {
    for (int o = 0; o < outputs; o++)
      for (int i = 0; i < inputs; i++) w[static_cast<size_t>(i) * width + o] = *from++;
    std::copy(from, from + outputs, bias.data());
    return from + outputs;
  }

  // adds weight times these parameters
  double* add_to(double* to, double weight) const {
    for (int o = 0; o < outputs; o++)
      for (int i = 0; i < inputs; i++) *to++ += weight * w[static_cast<size_t>(i) * width + o];
    for (int o = 0; o < outputs; o++) *to++ += weight * bias[o];
    return to;
  }

  void forward_of(const float* const* x, int rows, float* out) const {
    forward_rows(width, x, rows, w.data(), bias.data(), inputs, out);
  }

  // adds the products with slopes that are already multiplied by minus the step
  void descend(const float* const* x, int rows, const float* slope) {
    for (int r = 0; r < rows; r++)
      for (int p = 0; p < outputs; p++) bias[p] += slope[r * width + p];
    switch (width / LANES) {
      case 1: return backward<1>(x, rows, slope, inputs, w.data());
      case 2: return backward<2>(x, rows, slope, inputs, w.data());
      case 4: return backward<4>(x, rows, slope, inputs, w.data());
      case 8: return backward<8>(x, rows, slope, inputs, w.data());
      default: return backward<16>(x, rows, slope, inputs, w.data());
    }
  }
};

constexpr float LEAST = -80.f;  // beyond, exp leaves the normal numbers and takes a slow way

// scores of some rows -> -step (softmax - one hot), in place; lanes that fill up hold -1e30.
// Three passes, each of which goes from row to row without a dependency.
template <int width>
void softmax_rows(float* scores, int rows, const int64_t* y, const int64_t* visits, float step) {
  for (int r = 0; r < rows; r++) {
    float *row = scores + r * width, top = row[0];
    for (int c = 0; c < width; c++) top = std::max(top, row[c]);
    for (int c = 0; c < width; c++) row[c] = std::max(row[c] - top, LEAST);
  }
  for (int i = 0; i < rows * width; i++) scores[i] = std::exp(scores[i]);
  for (int r = 0; r < rows; r++) {
    float *row = scores + r * width, sum = 0.f;
    for (int c = 0; c < width; c++) sum += row[c];
    const float factor = -step / sum;
    for (int c = 0; c < width; c++) row[c] *= factor;
    row[y[visits[r]]] += step;
  }
}

void softmax_slopes(int width, float* scores, int rows, const int64_t* y, const int64_t* visits,
                    float step) {
  if (width == 8) return softmax_rows<8>(scores, rows, y, visits, step);
  softmax_rows<16>(scores, rows, y, visits, step);
}

uint64_t mixed(uint64_t z) {  // the finaliser of SplitMix64
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

struct Trainer {
  Layer first, last;  // last: only where there is a hidden layer
  int hidden;
  Buffer a, scores, back, turned, zeros;
  std::vector<const float*> x, hidden_rows, slopes;
  std::vector<int64_t> order;

  Trainer(int features, int hidden, int classes, int batch)
      : first(features, hidden ? hidden : classes, hidden ? 0.f : -1e30f),
        last(hidden ? hidden : 1, classes, -1e30f),
        hidden(hidden),
        a(static_cast<size_t>(batch) * first.width),
        scores(static_cast<size_t>(batch) * last.width),
        back(static_cast<size_t>(batch) * first.width),
        turned(static_cast<size_t>(classes) * first.width),
        zeros(first.width),
        x(batch), hidden_rows(batch), slopes(batch) {
    for (int r = 0; r < batch; r++) {
      hidden_rows[r] = a.data() + static_cast<size_t>(r) * first.width;
      slopes[r] = scores.data() + static_cast<size_t>(r) * last.width;
    }
  }

  void load(const float* w) {
    const float* rest = first.load(w);
    if (hidden) last.load(rest);
  }

  void step(const float* table, const int64_t* y, const int64_t* visits, int rows, float lr) {
    const float rate = lr / static_cast<float>(rows);
    for (int r = 0; r < rows; r++) x[r] = table + visits[r] * first.inputs;
    first.forward_of(x.data(), rows, a.data());
    if (!hidden) {
      softmax_slopes(first.width, a.data(), rows, y, visits, rate);
      first.descend(x.data(), rows, a.data());
      return;
    }
    for (int p = 0; p < rows * first.width; p++) a[p] = std::max(a[p], 0.f);
    last.forward_of(hidden_rows.data(), rows, scores.data());
    softmax_slopes(last.width, scores.data(), rows, y, visits, rate);
    back_through(rows);
    last.descend(hidden_rows.data(), rows, scores.data());
    first.descend(x.data(), rows, back.data());
  }

  // the slopes of the hidden layer's inputs
  void back_through(int rows) {
    for (int h = 0; h < hidden; h++)
      for (int c = 0; c < last.outputs; c++)
        turned[static_cast<size_t>(c) * first.width + h] = last.w[static_cast<size_t>(h) * last.width + c];
    forward_rows(first.width, slopes.data(), rows, turned.data(), zeros.data(), last.outputs,
                 back.data());
    for (int p = 0; p < rows * first.width; p++) back[p] = a[p] > 0.f ? back[p] : 0.f;
  }
};

}  // namespace

// One round of FedAvg with SGD; w (d,) is what the server sends, and then the average by size.
// x (rows, features), y (rows,). Client k of the cohort owns sizes[k] rows from starts[k] on and
// takes counts[k] steps on mini-batches of `batch`, epoch after epoch, the last of an epoch short.
// visits: the rows in the order of all visits, client after client from begins[k] on; null: every
// epoch of client k is shuffled here (Fisher and Yates), by a generator of its own.
extern "C" void fedavg_round(const float* x, const int64_t* y, int features, int hidden,
                             int classes, const int64_t* starts, const int64_t* sizes,
                             const int64_t* counts, int clients, int batch, float lr,
                             uint64_t seed, const int64_t* visits, const int64_t* begins, float* w,
                             int64_t d, int threads) {
  std::vector<int> queue(clients);
  std::iota(queue.begin(), queue.end(), 0);
  std::stable_sort(queue.begin(), queue.end(), [&](int a, int b) { return counts[a] > counts[b]; });
  const double total = static_cast<double>(std::accumulate(sizes, sizes + clients, int64_t{0}));
  std::vector<double> mean(d);
#pragma omp parallel num_threads(threads)
  {
    Trainer trainer(features, hidden, classes, batch);
    std::vector<double> sum(d);
#pragma omp for schedule(dynamic, 1)
    for (int turn = 0; turn < clients; turn++) {
      const int k = queue[turn];
      const int64_t n = sizes[k];
      uint64_t state = mixed(seed ^ mixed(static_cast<uint64_t>(starts[k]) + 1));
      trainer.load(w);
      trainer.order.resize(n);
      const int64_t* next = visits ? visits + begins[k] : nullptr;
      int64_t place = 0;  // in the epoch
      for (int64_t s = 0; s < counts[k]; s++) {
        const int rows = static_cast<int>(std::min<int64_t>(batch, n - place));
        if (!visits && !place) std::iota(trainer.order.begin(), trainer.order.end(), starts[k]);
        if (!visits) {
          for (int64_t i = place; i < place + rows; i++) {
            state += 0x9E3779B97F4A7C15ull;
            const uint64_t draw = mixed(state) >> 32;
            std::swap(trainer.order[i], trainer.order[i + ((draw * (n - i)) >> 32)]);
          }
          next = trainer.order.data() + place;
        }
        trainer.step(x, y, next, rows, lr);
        next += rows;
        place = place + rows < n ? place + rows : 0;
      }
      double* rest = trainer.first.add_to(sum.data(), n / total);
      if (hidden) trainer.last.add_to(rest, n / total);
    }
#pragma omp critical
    for (int64_t i = 0; i < d; i++) mean[i] += sum[i];
  }
  std::copy(mean.begin(), mean.end(), w);
}
