import pytest
import torch

from mafunzo.compute.training.head_loss import CHUNK, PART, Head, head_loss

WIDTH, VOCABULARY = 8, 50


def slow(hidden, head, targets):
    logits = hidden.double() @ head.weight_VH.double().t()
    if head.bias_V is not None:
        logits = logits + head.bias_V.double()
    logits = logits * head.multiplier
    if head.softcap:
        logits = torch.tanh(logits / head.softcap) * head.softcap
    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return loss, (logits.argmax(-1) == targets).sum()


def make(count, dtype=torch.float32, has_bias=False, **more):
    torch.manual_seed(count)
    hidden = torch.randn(count, WIDTH).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY).to(dtype).requires_grad_() if has_bias else None
    return hidden, Head(weight, bias, **more), torch.randint(0, VOCABULARY, (count,))


@pytest.mark.parametrize("count", [1, PART, PART + 1, CHUNK, CHUNK + PART + 3])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="plain"),
        pytest.param({"has_bias": True}, id="bias"),
        pytest.param({"softcap": 2.0}, id="soft cap"),
        pytest.param({"multiplier": 0.5, "softcap": 1.5, "has_bias": True}, id="all"),
    ],
)
def test_loss_and_gradients_are_those_of_the_definition(count, more):
    hidden, head, targets = make(count, **more)
    loss, correct = head_loss(hidden, head, targets)
    (loss / 7).backward()
    tensors = [t for t in (hidden, head.weight_VH, head.bias_V) if t is not None]
    mine = [t.grad.clone() for t in tensors]
    for tensor in tensors:
        tensor.grad = None
    expected, expected_correct = slow(hidden, head, targets)
    (expected / 7).backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-4)
    assert int(correct) == int(expected_correct)
    for ours, tensor in zip(mine, tensors, strict=True):
        torch.testing.assert_close(ours, tensor.grad, rtol=1e-4, atol=1e-5)


def test_a_frozen_head_gets_no_gradient():
    hidden, head, targets = make(5)
    head.weight_VH.requires_grad_(False)
    head_loss(hidden, head, targets)[0].backward()
    assert head.weight_VH.grad is None and hidden.grad is not None


def test_without_gradients_the_same_loss_comes_out():
    hidden, head, targets = make(300)
    with torch.no_grad():
        loss, correct = head_loss(hidden, head, targets)
    with_grad, with_grad_correct = head_loss(hidden, head, targets)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, with_grad.detach())
    assert int(correct) == int(with_grad_correct)


def test_a_certain_and_wrong_prediction_has_a_finite_loss():
    head = Head(torch.eye(3) * 500)
    loss, correct = head_loss(torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True), head, torch.tensor([2]))
    assert float(loss.detach()) == pytest.approx(500)
    assert int(correct) == 0


def test_in_bfloat16_the_sum_is_kept_in_float32():
    hidden, head, targets = make(600, torch.bfloat16)
    loss, _ = head_loss(hidden, head, targets)
    expected, _ = slow(hidden, head, targets)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-3)
    loss.backward()
    assert hidden.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("chunk", [PART, 64, CHUNK])
def test_the_size_of_a_chunk_changes_no_loss(chunk):
    hidden, head, targets = make(300)
    expected = head_loss(hidden, head, targets, 4096)[0]
    expected.backward()
    gradients = [hidden.grad.clone(), head.weight_VH.grad.clone()]
    hidden.grad = head.weight_VH.grad = None
    loss, _ = head_loss(hidden, head, targets, chunk)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-4)
    for ours, theirs in zip([hidden.grad, head.weight_VH.grad], gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
