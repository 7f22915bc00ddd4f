"""Triton's requests, serialised; runs in the environment of `triton.txt`, whose client knows the messages.

Writes to standard output, each request behind its length (4 bytes, little-endian): first one that starts each
sequence, then one that goes on with each. The same ones can be sent again and again, as Triton knows no times.
"""

import struct
import sys

import numpy as np
from tritonclient.grpc import service_pb2


def request(sequence: int, value: float, *, start: bool) -> bytes:
    """Return a request of one step of one sequence, whose id tells its place among the requests of a run."""
    message = service_pb2.ModelInferRequest(model_name="gru", id=f"#{sequence:08d}")
    message.parameters["sequence_id"].int64_param = sequence + 1  # 0 is no sequence
    message.parameters["sequence_start"].bool_param = start
    message.parameters["sequence_end"].bool_param = False
    message.inputs.add(name="Y", datatype="FP32", shape=[1, 1])
    message.outputs.add(name="FORECAST")
    message.raw_input_contents.append(np.float32(value).tobytes())
    return message.SerializeToString()


def main() -> None:
    """Write the requests of as many sequences as the first argument says."""
    count = int(sys.argv[1])
    values = np.random.default_rng(0).standard_normal(count)
    for start in (True, False):
        for sequence in range(count):
            found = request(sequence, float(values[sequence]), start=start)
            sys.stdout.buffer.write(struct.pack("<I", len(found)) + found)


if __name__ == "__main__":
    main()
