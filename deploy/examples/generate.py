#!/usr/bin/env python3
"""Streams an answer from a Baton gateway, in plain grpcio.

    PYTHONPATH=build/release/python python3 deploy/examples/generate.py "What is the capital of France?"

Needs grpcio and protobuf (Debian: python3-grpcio, python3-protobuf). deploy/up leaves the generated modules in
build/release/python; anywhere else, make them with grpcio-tools:

    python3 -m grpc_tools.protoc -I protos --python_out=. --grpc_python_out=. protos/baton/v1/inference.proto
"""
import argparse
import sys

import grpc

from baton.v1 import inference_pb2 as pb
from baton.v1 import inference_pb2_grpc as rpc


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask a model behind a Baton gateway.")
    parser.add_argument("question")
    parser.add_argument("--gateway", default="127.0.0.1:7000", metavar="HOST:PORT")
    parser.add_argument("--model", default="tiny-gemma2")
    parser.add_argument("--temperature", type=float, help="0 is greedy; the model's default when left out")
    arguments = parser.parse_args()

    request = pb.GenerateRequest(
        model=arguments.model,
        chat=pb.ChatPrompt(messages=[pb.ChatMessage(role="user", content=arguments.question)]),
        sampling=pb.SamplingParams(temperature=arguments.temperature),
        stopping=pb.StoppingParams(max_new_tokens=64),
    )
    with grpc.insecure_channel(arguments.gateway) as channel:
        try:
            # Leaving the loop early, or the deadline, stops the work on the servers.
            for event in rpc.InferenceStub(channel).GenerateStream(request, timeout=60):
                if event.HasField("delta"):
                    print(event.delta.text, end="", flush=True)
                elif event.HasField("finished"):
                    usage = event.finished.usage
                    print(f"\n({usage.prompt_tokens} prompt + {usage.completion_tokens} output tokens)")
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
