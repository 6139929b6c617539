"""FedJAX: federated averaging with its jit backend."""

import fedjax
import jax
import jax.numpy as jnp
import numpy as np
from common import now, serve


def loss(layers, batch):
    """Mean cross-entropy."""
    a = batch["x"]
    for i in range(0, len(layers), 2):
        a = a @ layers[i].T + layers[i + 1]
        a = jax.nn.relu(a) if i + 2 < len(layers) else a
    return -jnp.take_along_axis(jax.nn.log_softmax(a), batch["y"][:, None], 1).mean()


def slope(layers, batch, rng):
    """Its gradient."""
    return jax.grad(loss)(layers, batch)


ALGORITHMS = {}  # compiled once


def algorithm(job):
    """Federated averaging with what the job asks for."""
    if not ALGORITHMS:
        work = {"num_steps": job.steps} if job.steps else {"num_epochs": 1}
        ALGORITHMS[0] = fedjax.algorithms.fed_avg.federated_averaging(
            slope,
            fedjax.optimizers.sgd(job.lr),
            fedjax.optimizers.sgd(1.0),
            fedjax.ShuffleRepeatBatchHParams(batch_size=job.batch, **work),
        )
    return ALGORITHMS[0]


def run(job, rounds):
    """The loop of its examples."""
    data = fedjax.InMemoryFederatedData(
        {
            str(k): {"x": x, "y": y.astype(np.int32)}
            for k, (x, y) in enumerate(zip(job.x, job.y, strict=True))
        }
    )
    average = algorithm(job)
    state = average.init([jnp.asarray(v) for v in job.layers])
    sampler = fedjax.client_samplers.UniformGetClientSampler(data, job.cohort, seed=0)
    began = []
    for _ in range(rounds):
        began.append(now())
        state, _ = average.apply(state, sampler.sample())
        jax.block_until_ready(state.params)
    return began, [np.asarray(v) for v in state.params]


if __name__ == "__main__":
    serve(run)
