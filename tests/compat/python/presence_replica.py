"""A replica of the presence service as a client sees it that knows nothing but its address."""

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Replica:
    """One server, and what it tells of its services."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.reflected = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.reflected)

    def call(self, service, method, /, **fields):
        described = self.pool.FindServiceByName(service).methods_by_name[method]
        request, response = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
        kind = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        path = f"/{service}/{method}"
        send = kind(path, request_serializer=request.SerializeToString, response_deserializer=response.FromString)
        return send(request(**fields), timeout=20)
