"""KServe's REST client against a server: `python rest.py URL MODEL`. The model is echo's."""

import asyncio
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(url: str, model: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, model)
    for binary in (False, True):
        values = np.array([1.5, -2.0], np.float32)
        tensor = InferInput("x", [2], "FP32")
        tensor.set_data_from_numpy(values, binary_data=binary)
        request = InferRequest(model, [tensor], request_id="r1")
        answer = await client.infer(url, request, model_name=model)
        assert (answer.id, answer.model_name) == ("r1", model)
        (found,) = [each for each in answer.outputs if each.name == "y"]
        assert np.array_equal(found.as_numpy().ravel(), values), found.as_numpy()
    try:
        await client.infer(url, {"inputs": []}, model_name=model)
    except Exception as error:
        assert "400" in str(error) and "nothing to echo" in str(error), error
    else:
        raise AssertionError("a request without inputs was answered")
    await client.close()


asyncio.run(main(*sys.argv[1:]))
