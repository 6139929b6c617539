"""From noise to guarantees."""

from math import comb, exp, inf, log

import numpy as np
import pytest
import torch
from toys import SIZES, classification, classifier

from fedlab_helpers import DPSGD, SGD, Cohort, DPFedAvg
from fedlab_helpers.privacy import client_epsilon, example_epsilon, masked, sum_of_masked

ORDERS = np.concatenate([np.linspace(1.01, 64, 20_000), np.arange(65, 1025)])


def by_closed_form(times, z, sensitivity, delta):
    """The Gaussian mechanism is (a, times a sensitivity^2 / (2 z^2))-RDP: Mironov, CSF 2017,
    Corollary 3. From there to (epsilon, delta): his Proposition 3, and the tighter Proposition 12
    of Canonne, Kamath and Steinke, NeurIPS 2020.
    """
    each = [(a, times * a * sensitivity**2 / (2 * z**2)) for a in ORDERS]
    simple = min(rdp + log(1 / delta) / (a - 1) for a, rdp in each)
    return simple, min(tighter(a, rdp, delta) for a, rdp in each)


def tighter(a, rdp, delta):
    return rdp + log(1 - 1 / a) - log(delta * a) / (a - 1)


@pytest.mark.parametrize("z", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("rounds", [1, 50])
def test_with_everybody_in_every_round_it_is_the_closed_form(z, rounds):
    simple, tight = by_closed_form(rounds, z, sensitivity=2, delta=1e-3)
    epsilon = client_epsilon(z, 10, 10, rounds, 1e-3)
    assert epsilon <= simple
    assert epsilon == pytest.approx(tight, rel=0.01)


@pytest.mark.parametrize("z", [1.0, 3.0, 20.0])
def test_an_example_that_is_there_or_not_moves_the_sum_by_one_clip(z):
    simple, tight = by_closed_form(30, z, sensitivity=1, delta=1e-3)
    epsilon = example_epsilon(z, 30, 1e-3)
    assert epsilon <= simple
    assert epsilon == pytest.approx(tight, rel=0.01)


def test_replacing_a_client_is_twice_as_far_as_leaving_out_an_example():
    assert client_epsilon(4.0, 10, 10, 30, 1e-3) == pytest.approx(example_epsilon(2.0, 30, 1e-3))


def test_a_known_number():
    """One Gaussian of standard deviation 1: epsilon 4.38 is exact at this delta (Balle and Wang,
    ICML 2018, Theorem 8), and Renyi accounting cannot be below it.
    """

    def phi(t):
        return float(torch.special.ndtr(torch.tensor(t, dtype=torch.float64)))

    eps = example_epsilon(1.0, 1, 1e-5)
    assert phi(0.5 - 4.378) - exp(4.378) * phi(-0.5 - 4.378) == pytest.approx(1e-5, rel=0.01)
    assert 4.378 < eps < 4.8


@pytest.mark.parametrize(
    "epsilons",
    [
        [client_epsilon(z, 100, 10, 20, 1e-3) for z in (8.0, 4.0, 2.0, 1.0)],
        [client_epsilon(2.0, 100, 10, rounds, 1e-3) for rounds in (1, 10, 100)],
        [client_epsilon(2.0, 100, cohort, 20, 1e-3) for cohort in (1, 10, 50, 90, 99, 100)],
        [client_epsilon(2.0, clients, 10, 20, 1e-3) for clients in (1000, 100, 20, 10)],
        [client_epsilon(2.0, 100, 10, 20, delta) for delta in (1e-2, 1e-4, 1e-6)],
        [example_epsilon(z, 20, 1e-3) for z in (8.0, 4.0, 2.0, 1.0)],
        [example_epsilon(2.0, epochs, 1e-3) for epochs in (1, 10, 100)],
    ],
    ids=["noise", "rounds", "cohort", "clients", "delta", "example noise", "epochs"],
)
def test_epsilon_grows_where_less_is_hidden(epsilons):
    assert epsilons == sorted(epsilons)
    assert epsilons[0] < epsilons[-1]


def test_a_small_cohort_hides_its_members():
    """At small epsilon, drawing one client of a hundred is worth far more than a factor of ten."""
    assert client_epsilon(8.0, 100, 1, 10, 1e-3) < client_epsilon(8.0, 100, 100, 10, 1e-3) / 5


def test_a_drawn_cohort_lies_between_the_limit_of_many_rounds_and_a_simple_bound():
    """Above: Wang, Balle and Kasiviswanathan, AISTATS 2019, Theorem 9. Below: many rounds are one
    Gaussian (Bu, Dong, Long and Su 2020, with the sampling of a fixed size).
    """
    z, q, rounds, delta = 16.0, 0.05, 100, 1e-3
    rate = 4 / (2 * z**2)  # of the Gaussian, whose sensitivity is two clips

    def rdp(a):
        terms = [comb(a, 2) * q**2 * min(4 * (exp(2 * rate) - 1), 2 * exp(2 * rate))]
        terms += [2 * comb(a, j) * q**j * exp((j - 1) * j * rate) for j in range(3, a + 1)]
        return log(1 + sum(terms)) / (a - 1)

    bound = min(tighter(a, rounds * rdp(a), delta) for a in range(2, 64))
    limit = min(tighter(a, rounds * q**2 * a * (exp(2 * rate) - 1) / 2, delta) for a in ORDERS)
    assert limit < client_epsilon(z, 100, 5, rounds, delta) < bound


def test_without_noise_there_is_no_guarantee():
    assert client_epsilon(0.0, 10, 10, 1, 1e-3) == inf
    assert example_epsilon(0.0, 1, 1e-3) == inf


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: client_epsilon(1.0, 10, 11, 1, 1e-3), "a cohort of 1 to 10 clients, got 11"),
        (lambda: client_epsilon(1.0, 10, 0, 1, 1e-3), "a cohort of 1 to 10 clients, got 0"),
        (lambda: client_epsilon(-1.0, 10, 5, 1, 1e-3), "noise multiplier of at least 0, got -1"),
        (lambda: client_epsilon(1.0, 10, 5, 0, 1e-3), "at least 1 round"),
        (lambda: client_epsilon(1.0, 10, 5, 1, 0.0), r"delta in \(0, 1\), got 0"),
        (lambda: client_epsilon(0.0, 10, 5, 1, 2.0), r"delta in \(0, 1\), got 2"),
        (lambda: example_epsilon(-1.0, 1, 1e-3), "noise multiplier of at least 0, got -1"),
        (lambda: example_epsilon(1.0, 0, 1e-3), "at least 1 round or epoch, got 0"),
        (lambda: example_epsilon(1.0, 1, 1.0), r"delta in \(0, 1\), got 1"),
    ],
)
def test_nonsense_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# That the algorithms add the noise which the accountant is told ----------------------------------


def test_the_noise_of_a_sum_of_updates_is_z_clips():
    """Over many coordinates and rounds of nothing but noise."""
    model, algorithm = classifier(), DPFedAvg(clip=0.3, noise=2.0)
    w, uploads = torch.zeros(20_000), torch.zeros(5, 20_000)
    generator = torch.Generator()
    who = torch.arange(5), torch.ones(5), torch.zeros(5)
    team = Cohort(*who, 5, lambda: generator)
    total = 5 * algorithm.aggregate(model, w, uploads, team)
    assert float(total.std()) == pytest.approx(2.0 * 0.3, rel=0.02)


def test_an_epoch_meets_every_example_once_and_adds_z_clips_in_every_step():
    """The accountant counts one noisy sum an epoch, so noise is drawn anew in each."""
    drawn = []

    class Watched(DPSGD):
        def client_update(self, model, server, client, data):
            real, before = data.normal, len(drawn)

            def normal(w):
                drawn.append(real(w))
                return drawn[-1]

            object.__setattr__(data, "normal", normal)
            result = super().client_update(model, server, client, data)
            assert len(drawn) - before == int(data.counts.max())
            return result

    model, k = classifier(), 1
    data = classification().local(torch.tensor([k]), 4, 2, 0, 1)
    visited = [int(m.sum()) if m is not None else y.numel() for _, y, m in data.batches()]
    assert sum(visited) == 2 * SIZES[k]
    Watched(optimiser=SGD(0.1)).client_update(model, model.init(0)[None], (), data)
    assert len({float(noise[0, 0]) for noise in drawn}) == len(drawn) == 6


# Sums whose terms nobody sees --------------------------------------------------------------------


def uploads_of(cohort, numbers=2000, scale=1.0):
    generator = torch.Generator().manual_seed(cohort)
    drawn = torch.randn(cohort, numbers, generator=generator, dtype=torch.float64)
    return scale * drawn


@pytest.mark.parametrize("cohort", [2, 3, 7])
def test_masks_cancel_in_the_sum_and_only_there(cohort):
    """The rest is rounding: half of 2^-32 for each client."""
    uploads = uploads_of(cohort)
    sent = masked(uploads, seed=0)
    assert float((sum_of_masked(sent) - uploads.sum(0)).abs().max()) <= cohort * 2.0**-33
    for few in (sent[:1], sent[1:]):
        assert float((sum_of_masked(few) - uploads[: len(few)].sum(0)).abs().median()) > 1e6


def test_a_masked_upload_is_uniform_whatever_is_behind_it():
    """Its share in each eighth of the whole range; and without a trace of what is behind it."""
    for scale in (0.0, 1.0, 1e6):
        uploads = uploads_of(3, 20_000, scale)
        one = masked(uploads, seed=1)[1].double()
        shares = torch.histc(one / 2.0**63, bins=8, min=-1, max=1) / len(one)
        assert float((shares - 1 / 8).abs().max()) < 0.01
        if scale:
            assert abs(float(torch.corrcoef(torch.stack([one, uploads[1]]))[0, 1])) < 0.03


def test_masks_are_new_in_every_round_and_the_same_for_the_same_seed():
    uploads = uploads_of(3)
    first = masked(uploads, 0, round=1)
    assert torch.equal(first, masked(uploads, 0, round=1))
    for other in (masked(uploads, 0, round=2), masked(uploads, 1, round=1)):
        assert not (first == other).any()


def test_masks_keep_the_shape_of_what_is_sent():
    uploads = uploads_of(2).view(2, 50, 40).float()
    sent = masked(uploads, 0)
    assert sent.shape == uploads.shape
    assert not sent.is_floating_point()
    torch.testing.assert_close(sum_of_masked(sent), uploads.double().sum(0), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("uploads", "words"),
    [
        (torch.ones(1, 4), "two clients or more, got 1"),
        (torch.full((3, 4), 1e10), "numbers below .* over 3 clients, got 1e\\+10"),
        (torch.full((3, 4), float("nan")), "got nan"),
    ],
)
def test_what_cannot_be_masked_is_refused(uploads, words):
    with pytest.raises(ValueError, match=words):
        masked(uploads, 0)
