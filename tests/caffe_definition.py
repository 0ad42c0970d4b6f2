"""Caffe's messages, transcribed from its published caffe.proto, for the protobuf library.

Transcribed, not recorded: no Caffe can be installed here, so files are made as its definition says
they are. This shares nothing with the reader, which does not use the protobuf library.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Name, number, type; "*" for repeated, "+" for repeated and packed.
_MESSAGES = {
    "BlobShape": [("dim", 1, "int64+")],
    "BlobProto": [
        ("num", 1, "int32"),
        ("channels", 2, "int32"),
        ("height", 3, "int32"),
        ("width", 4, "int32"),
        ("data", 5, "float+"),
        ("diff", 6, "float+"),
        ("shape", 7, "BlobShape"),
        ("double_data", 8, "double+"),
        ("double_diff", 9, "double+"),
    ],
    "SolverState": [
        ("iter", 1, "int32"),
        ("learned_net", 2, "string"),
        ("history", 3, "BlobProto*"),
        ("current_step", 4, "int32"),
    ],
    "ParamSpec": [("name", 1, "string"), ("lr_mult", 3, "float"), ("decay_mult", 4, "float")],
    "LayerParameter": [
        ("name", 1, "string"),
        ("type", 2, "string"),
        ("bottom", 3, "string*"),
        ("top", 4, "string*"),
        ("param", 6, "ParamSpec*"),
        ("blobs", 7, "BlobProto*"),
        ("phase", 10, "int32"),
    ],
    "V0LayerParameter": [("name", 1, "string"), ("blobs", 50, "BlobProto*")],
    "V1LayerParameter": [
        ("layer", 1, "V0LayerParameter"),
        ("bottom", 2, "string*"),
        ("top", 3, "string*"),
        ("name", 4, "string"),
        ("type", 5, "int32"),
        ("blobs", 6, "BlobProto*"),
        ("blobs_lr", 7, "float*"),
        ("weight_decay", 8, "float*"),
        ("param", 1001, "string*"),
    ],
    "NetParameter": [
        ("name", 1, "string"),
        ("layers", 2, "V1LayerParameter*"),
        ("input", 3, "string*"),
        ("force_backward", 5, "bool"),
        ("layer", 100, "LayerParameter*"),
    ],
}


def _messages():
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="caffe_definition.proto", package="caffe", syntax="proto2"
    )
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            plain = kind.rstrip("*+")
            repeated = kinds.LABEL_REPEATED if plain != kind else kinds.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=repeated)
            if plain in _MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe.{plain}"
            else:
                field.type = getattr(kinds, f"TYPE_{plain.upper()}")
            if kind.endswith("+"):
                field.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _messages()
BlobProto: Any = _CLASSES["BlobProto"]
SolverState: Any = _CLASSES["SolverState"]
NetParameter: Any = _CLASSES["NetParameter"]
