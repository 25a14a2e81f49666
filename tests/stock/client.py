"""A client in Python with gRPC as it comes from PyPI. It makes one call and prints OK and the
reply, or the code of the status and its text. It has no generated code: request and reply are
base64."""

import argparse
import base64

import grpc

TIMEOUT_SECONDS = 20


def content(path):
    with open(path, "rb") as file:
        return file.read()


def channel(given):
    # Every attempt is one of its own: a connection that was refused is not tried again and again.
    options = [("grpc.enable_retries", 0)]
    if given.server_name:
        options.append(("grpc.ssl_target_name_override", given.server_name))
    if not given.ca:
        return grpc.insecure_channel(given.address, options)
    key, certificate = (content(given.key), content(given.cert)) if given.cert else (None, None)
    credentials = grpc.ssl_channel_credentials(content(given.ca), key, certificate)
    return grpc.secure_channel(given.address, credentials, options)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    for flag in ["--method", "--request", "--ca", "--cert", "--key", "--token", "--server_name"]:
        parser.add_argument(flag)
    given = parser.parse_args()
    metadata = [("authorization", "Bearer " + given.token)] if given.token else []
    with channel(given) as connection:
        call = connection.unary_unary(given.method)
        try:
            reply = call(base64.b64decode(given.request), timeout=TIMEOUT_SECONDS, metadata=metadata)
            print("OK: " + base64.b64encode(reply).decode())
        except grpc.RpcError as error:
            print(error.code().name + ": " + " ".join((error.details() or "").split()))


main()
