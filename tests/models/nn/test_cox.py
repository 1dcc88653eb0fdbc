import numpy as np
import pytest
import torch

from stpredict.models.nn._cox import cox_loss


@pytest.fixture
def cohort():
    """Sixty patients with tied times, some of them events, some censored at the time of an event."""
    rng = np.random.default_rng(0)
    return rng.normal(size=60), rng.integers(1, 13, 60).astype(float), rng.integers(0, 2, 60).astype(float)


def loss(risk, time, event):
    return float(cox_loss(*(torch.as_tensor(np.asarray(v), dtype=torch.float32) for v in (risk, time, event))))


def naive(risk, time, event):
    total = 0.0
    for i in np.flatnonzero(event):
        total += risk[i] - np.log(sum(np.exp(risk[j]) for j in range(len(time)) if time[j] >= time[i]))
    return -total / event.sum()


def test_matches_the_definition_with_ties(cohort):
    assert len(np.unique(cohort[1])) < 13
    assert loss(*cohort) == pytest.approx(naive(*cohort), rel=1e-5)


def test_order_does_not_matter(cohort):
    order = np.random.default_rng(1).permutation(60)
    assert loss(*(values[order] for values in cohort)) == pytest.approx(loss(*cohort), rel=1e-6)


def test_offset_does_not_matter_and_scale_does(cohort):
    risk, time, event = cohort
    assert loss(risk + 50, time, event) == pytest.approx(loss(risk, time, event), rel=1e-4)
    assert loss(5 * risk, time, event) != pytest.approx(loss(risk, time, event), rel=1e-2)
    assert loss(risk, 1000 * time, event) == pytest.approx(loss(risk, time, event), rel=1e-6)


def test_matches_lifelines_without_ties(cohort):
    """Efron's handling of ties, which lifelines has, is Breslow's where there are none."""
    lifelines = pytest.importorskip("lifelines")
    pd = pytest.importorskip("pandas")
    risk, time, event = cohort
    time = time + np.linspace(0, 0.5, 60)
    model = lifelines.CoxPHFitter().fit(pd.DataFrame({"x": risk, "t": time, "e": event}), "t", "e")
    slope = model.params_["x"]
    assert -event.sum() * loss(slope * risk, time, event) == pytest.approx(model.log_likelihood_, rel=1e-5)
    assert loss(slope * risk, time, event) < min(loss((slope + d) * risk, time, event) for d in (-0.1, 0.1))


def test_minimum_is_that_of_scikit_survival_with_ties(cohort):
    linear = pytest.importorskip("sksurv.linear_model")
    util = pytest.importorskip("sksurv.util")
    risk, time, event = cohort
    outcome = util.Surv.from_arrays(event.astype(bool), time)
    fitted = {
        ties: float(linear.CoxPHSurvivalAnalysis(ties=ties, tol=1e-12).fit(risk[:, None], outcome).coef_[0])
        for ties in ("breslow", "efron")
    }
    slope = torch.tensor(fitted["breslow"], dtype=torch.float64, requires_grad=True)
    arguments = torch.as_tensor(risk), torch.as_tensor(time), torch.as_tensor(event)
    cox_loss(slope * arguments[0], *arguments[1:]).backward()
    assert abs(float(slope.grad)) < 1e-5
    other = torch.tensor(fitted["efron"], dtype=torch.float64, requires_grad=True)
    cox_loss(other * arguments[0], *arguments[1:]).backward()
    assert abs(float(other.grad)) > 10 * abs(float(slope.grad))


def test_gradient_matches_the_definition(cohort):
    risk, time, event = (torch.as_tensor(v, dtype=torch.float32) for v in cohort)
    risk.requires_grad_()
    cox_loss(risk, time, event).backward()
    expected = torch.zeros(60)
    for i in torch.nonzero(event).ravel():
        at_risk = time >= time[i]
        expected[at_risk] += torch.softmax(risk.detach()[at_risk], 0)
        expected[i] -= 1
    torch.testing.assert_close(risk.grad, expected / event.sum(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_gradient_is_finite(cohort, scale):
    risk, time, event = (torch.as_tensor(v, dtype=torch.float32) for v in cohort)
    risk = (scale * risk).requires_grad_()
    value = cox_loss(risk, time, event)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(risk.grad).all()


def test_no_events():
    risk = torch.randn(5, requires_grad=True)
    value = cox_loss(risk, torch.arange(1.0, 6), torch.zeros(5))
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(risk.grad, torch.zeros(5))


def test_one_patient():
    assert loss([0.7], [3.0], [1.0]) == pytest.approx(0, abs=1e-6)


def test_half_precision_is_computed_in_single(cohort):
    risk, time, event = (torch.as_tensor(v, dtype=torch.float32) for v in cohort)
    half = risk.to(torch.bfloat16)
    torch.testing.assert_close(
        cox_loss(half, time, event).float(), cox_loss(half.float(), time, event), rtol=1e-2, atol=0
    )
