# SPDX-License-Identifier: MIT
"""backend.proto says what LocalAI's core says: compared with tests/wire_facts.json, field by field."""

import json
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

ROOT = Path(__file__).resolve().parents[2]
FACTS = json.loads((ROOT / "tests" / "wire_facts.json").read_text())


def compile_proto(proto: Path) -> bytes:
    """Serialized FileDescriptorProto of `proto`, by the protoc that also generates the stubs."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "descriptors")
        code = protoc.main(["protoc", f"-I{proto.parent}", f"--descriptor_set_out={out}", proto.name])
        if code:
            raise AssertionError(f"{proto} does not compile")
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0].SerializeToString()


def load_proto(proto: Path) -> FileDescriptor:
    """`proto` as a descriptor in a pool of its own, so that the stubs' registrations don't matter."""
    return descriptor_pool.DescriptorPool().AddSerializedFile(compile_proto(proto))


def scalar_name(field: FieldDescriptor) -> str:
    """The type as a .proto file spells it, without label; messages and enums without the package."""
    if field.message_type is not None:
        return field.message_type.full_name.removeprefix("backend.")
    if field.enum_type is not None:
        return field.enum_type.full_name.removeprefix("backend.")
    number = descriptor_pb2.FieldDescriptorProto.Type.Name(field.type)
    return number.removeprefix("TYPE_").lower()


def fact_of(field: FieldDescriptor) -> str:
    """One field in the words of wire_facts.json: "14 map<string, string>"."""
    kind = scalar_name(field)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        kind = f"map<{scalar_name(entry['key'])}, {scalar_name(entry['value'])}>"
    elif field.is_repeated:
        kind = f"repeated {kind}"
    elif field.containing_oneof is not None:  # proto3 `optional` is a oneof of one
        kind = f"optional {kind}"
    return f"{field.number} {kind}"


def facts_of(message: Descriptor) -> dict[str, str]:
    """Every field of `message`."""
    return {field.name: fact_of(field) for field in message.fields}


class WireContract(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls) -> None:
        cls.proto = load_proto(ROOT / "backend.proto")

    def test_the_package_and_the_service_are_those_that_the_core_dials(self) -> None:
        self.assertEqual(self.proto.package, FACTS["package"])
        self.assertEqual(list(self.proto.services_by_name), [FACTS["service"]])

    def test_the_rpcs_are_exactly_those_we_serve(self) -> None:
        methods = self.proto.services_by_name[FACTS["service"]].methods
        found = {method.name: f"{method.input_type.name} -> {method.output_type.name}" for method in methods}
        self.assertEqual(found, FACTS["rpcs"])

    def test_no_rpc_streams(self) -> None:
        proto = descriptor_pb2.FileDescriptorProto()
        self.proto.CopyToProto(proto)
        streams = [m.name for m in proto.service[0].method if m.client_streaming or m.server_streaming]
        self.assertEqual(streams, [])

    def test_every_field_has_the_number_and_type_of_the_contract(self) -> None:
        found = {name: facts_of(message) for name, message in self.proto.message_types_by_name.items()}
        self.assertEqual(found, FACTS["messages"])

    def test_the_states_have_the_numbers_of_the_contract(self) -> None:
        found = {
            f"{message.name}.{enum.name}": {value.name: value.number for value in enum.values}
            for message in self.proto.message_types_by_name.values()
            for enum in message.enum_types
        }
        self.assertEqual(found, FACTS["enums"])

    def test_the_generated_stubs_carry_the_contract(self) -> None:
        sys.path.insert(0, str(ROOT))
        self.addCleanup(sys.path.remove, str(ROOT))
        import backend_pb2
        import backend_pb2_grpc

        stubs = backend_pb2.DESCRIPTOR.message_types_by_name
        self.assertEqual({name: facts_of(message) for name, message in stubs.items()}, FACTS["messages"])
        served = {name for name in vars(backend_pb2_grpc.BackendServicer) if not name.startswith("_")}
        self.assertEqual(served, set(FACTS["rpcs"]))


class Comparison(unittest.TestCase):
    """The comparison itself must be able to fail."""

    def changed(self, old: str, new: str) -> dict[str, Any]:
        text = (ROOT / "backend.proto").read_text()
        self.assertEqual(text.count(old), 1, old)
        with tempfile.TemporaryDirectory() as folder:
            proto = Path(folder, "backend.proto")
            proto.write_text(text.replace(old, new))
            messages = load_proto(proto).message_types_by_name
            return {name: facts_of(message) for name, message in messages.items()}

    def test_a_wrong_number_shows(self) -> None:
        changed = self.changed("string EngineArgs = 73;", "string EngineArgs = 173;")
        self.assertNotEqual(changed, FACTS["messages"])

    def test_a_wrong_type_shows(self) -> None:
        self.assertNotEqual(self.changed("bool CUDA = 28;", "int32 CUDA = 28;"), FACTS["messages"])

    def test_a_lost_optional_shows(self) -> None:
        self.assertNotEqual(self.changed("optional float duration", "float duration"), FACTS["messages"])

    def test_a_lost_repeated_shows(self) -> None:
        self.assertNotEqual(self.changed("repeated string Options", "string Options"), FACTS["messages"])


if __name__ == "__main__":
    unittest.main()
