"""KServe's gRPC client against a server: `python grpc_v2.py ADDRESS MODEL`. The model is echo's."""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


async def main(address: str, model: str) -> None:
    client = InferenceGRPCClient(url=address, retries=0)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(model)
    for binary in (False, True):
        values = np.array([1.5, -2.0], np.float32)
        tensor = InferInput("x", [2], "FP32")
        tensor.set_data_from_numpy(values, binary_data=binary)
        request = InferRequest(model, [tensor], request_id="r1")
        answer = await client.infer(request)
        assert (answer.id, answer.model_name) == ("r1", model)
        (found,) = [each for each in answer.outputs if each.name == "y"]
        assert np.array_equal(found.as_numpy().ravel(), values), found.as_numpy()
    try:
        await client.infer(InferRequest(model, []))
    except Exception as error:
        assert "nothing to echo" in str(error), error
    else:
        raise AssertionError("a request without inputs was answered")
    await client.close()


asyncio.run(main(*sys.argv[1:]))
