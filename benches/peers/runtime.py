"""Lambda's runtime loop for Python, as small as it can be: import the handler, ask for events, post the answers."""

import http.client
import importlib
import json
import os
import sys

VERSION = "/2018-06-01/runtime"


def main() -> None:
    """Serves events until the Runtime API goes away."""
    sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
    module, name = os.environ["_HANDLER"].rsplit(".", 1)
    handler = getattr(importlib.import_module(module), name)
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    while True:
        response = _ask(api, "GET", "/invocation/next", None)
        event = json.loads(response.read())
        request_id = response.headers["Lambda-Runtime-Aws-Request-Id"]
        try:
            answer, end = handler(event, None), "response"
        except Exception as error:  # whatever a handler raises is Lambda's business
            answer = {"errorType": type(error).__name__, "errorMessage": str(error)}
            end = "error"
        _ask(api, "POST", f"/invocation/{request_id}/{end}", json.dumps(answer).encode()).read()


def _ask(
    api: http.client.HTTPConnection, method: str, path: str, body: bytes | None
) -> http.client.HTTPResponse:
    api.request(method, VERSION + path, body)
    return api.getresponse()


if __name__ == "__main__":
    main()
