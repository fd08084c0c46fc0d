import pytest

from tests.stack import Stack

pytestmark = pytest.mark.anyio


async def test_a_request_keeps_the_id_that_it_came_with(stack: Stack) -> None:
    """The reply and the trace name it so, also when two requests came with the same one."""
    for text in ("the first", "the second"):
        status, body, headers = await stack.chat(text, x_request_id="from the ingress")
        assert (status, headers["x-request-id"]) == (200, "from the ingress"), body
    assert (await stack.trace("from the ingress"))["status"] == 200
    _, body, headers = await stack.execute("named", x_request_id="prompt 1")
    assert (headers["x-request-id"], body["id"]) == ("prompt 1", "prompt 1")


async def test_a_refused_request_keeps_its_id_too(stack: Stack) -> None:
    """Also one whose key is not known, or whose body is not read."""
    for key in ("rg-nobody", stack.user):
        _, _, headers = await stack.chat("refused", model="none", key=key, x_request_id="r 1")
        assert headers["x-request-id"] == "r 1"
    assert (await stack.trace("r 1"))["outcome"] in ("invalid_api_key", "model_not_found")


@pytest.mark.parametrize("bad", ["x" * 129, "caf\xe9"])
async def test_an_id_that_no_log_should_hold_is_not_taken_over(stack: Stack, bad: str) -> None:
    """A long one, or one beyond ASCII, is replaced by one of ours."""
    _, _, headers = await stack.chat("bad name", x_request_id=bad)
    assert len(headers["x-request-id"]) == 32
    await stack.trace(headers["x-request-id"])


async def test_an_id_with_a_percent_sign_is_found_by_it(stack: Stack) -> None:
    """What a path says is decoded once: `50%2541` is the id `50%41`, not `50A`."""
    await stack.chat("per cent", x_request_id="50%41")
    assert (await stack.trace("50%2541"))["request_id"] == "50%41"
