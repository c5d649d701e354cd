"""gRPC's server reflection, by which clients such as grpcurl find services and messages."""

from collections.abc import Callable
from typing import Any

from cupola.serve.grpc.call import MessageQueue
from cupola.serve.grpc.messages import HEALTH, INFERENCE, REFLECTION, message, parse, pool
from cupola.serve.http.messages import Request, Response, ResponseStream
from cupola.serve.worker.context import WorkerContext

_NOT_FOUND, _UNIMPLEMENTED = 5, 12


def reflect(package: str) -> Callable[[WorkerContext, Request, MessageQueue], Response]:
    """The handler of ServerReflectionInfo in one version of the protocol."""

    def handler(context: WorkerContext, request: Request, messages: MessageQueue) -> Response:
        async def write(stream: ResponseStream) -> None:
            async for found in messages:
                asked = parse(f"{package}.ServerReflectionRequest", found.body)
                await stream.write(_answer(package, asked).SerializeToString())

        return Response(200, stream=write)

    return handler


def _answer(package: str, asked: Any) -> Any:
    answer = message(f"{package}.ServerReflectionResponse")()
    answer.valid_host = asked.host
    answer.original_request.CopyFrom(asked)
    kind = asked.WhichOneof("message_request")
    try:
        if kind == "list_services":
            for name in (INFERENCE, HEALTH, *REFLECTION):
                answer.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            _add_file(answer, pool().FindFileByName(asked.file_by_filename))
        elif kind == "file_containing_symbol":
            _add_file(answer, pool().FindFileContainingSymbol(asked.file_containing_symbol))
        elif kind == "all_extension_numbers_of_type":
            name = asked.all_extension_numbers_of_type
            pool().FindMessageTypeByName(name)
            answer.all_extension_numbers_response.base_type_name = name
        elif kind == "file_containing_extension":
            raise KeyError("there are no extensions")
        else:
            answer.error_response.error_code = _UNIMPLEMENTED
            answer.error_response.error_message = "an unknown kind of request"
    except KeyError as error:
        answer.error_response.error_code = _NOT_FOUND
        answer.error_response.error_message = str(error.args[0])
    return answer


def _add_file(answer: Any, file: Any) -> None:
    """Adds a file; ours import no others."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    found = FileDescriptorProto()
    file.CopyToProto(found)
    answer.file_descriptor_response.file_descriptor_proto.append(found.SerializeToString())
