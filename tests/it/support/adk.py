"""PolyAI's own client (PyPI: polyai-adk) against the simulator: lists, reads and downloads everything it finds.

    adk.py URL PROJECT_ID

The API key is in POLY_ADK_KEY. Prints a line of JSON for each conversation, newest first as PolyAI lists them, and one
for each request that must fail. The client itself is not changed; only its table of PolyAI's hosts gets another URL.
"""

import __future__
import hashlib
import importlib.machinery
import io
import json
import sys
import wave

REGION = "us-1"
PAGE = 5


def compile_with_deferred_annotations(self, data, path, *, _optimize=-1):
    """Compiles the client for Python before 3.14. It needs annotations that are evaluated late, as 3.14 does."""
    flags = __future__.annotations.compiler_flag if "/poly/" in path else 0
    return compile(data, path, "exec", flags=flags, dont_inherit=True, optimize=_optimize)


if sys.version_info < (3, 14):
    importlib.machinery.SourceFileLoader.source_to_code = compile_with_deferred_annotations
    # Code from an earlier cache lacks the flag, and code with the flag must not get into a cache of other programs.
    sys.pycache_prefix = "/nonexistent"
    sys.dont_write_bytecode = True

from poly.handlers.platform_api import PlatformAPIHandler as PolyAI  # noqa: E402
import requests  # noqa: E402


def print_line(**line):
    print(json.dumps(line), flush=True)


def list_all(project):
    offset = 0
    while True:
        page = PolyAI.list_conversations(REGION, project, limit=PAGE, offset=offset)
        yield from page["conversations"]
        offset += len(page["conversations"])
        if not page["conversations"] or offset >= page["count"]:
            return


def describe_recording(project, conversation, **options):
    """Returns the hash and the length of a recording, or the HTTP status if there is none."""
    try:
        data = PolyAI.get_conversation_audio(REGION, project, conversation, **options)
    except requests.HTTPError as error:
        return {"status": error.response.status_code}
    with wave.open(io.BytesIO(data)) as file:
        frames, rate = file.getnframes(), file.getframerate()
        read = len(file.readframes(frames)) // (file.getnchannels() * file.getsampwidth())
    assert read == frames, f"{read} of {frames} frames"
    return {"sha256": hashlib.sha256(data).hexdigest(), "seconds": frames / rate}


def print_refusal(what, request):
    try:
        request()
        print_line(refused=what, status=None)
    except requests.HTTPError as error:
        body = error.response.json()
        print_line(refused=what, status=error.response.status_code, code=body.get("error_code"))


def main(url, project):
    PolyAI.region_to_base_url[REGION] = url
    for listed in list_all(project):
        id = listed["conversationId"]
        whole = PolyAI.get_conversation(REGION, project, id)
        print_line(
            id=id,
            listed=listed,
            whole=whole,
            audio=describe_recording(project, id),
            user=describe_recording(project, id, direction="user"),
            redacted=describe_recording(project, id, redacted=True),
        )
    print_refusal("conversation", lambda: PolyAI.get_conversation(REGION, project, "CA-unknown"))
    print_refusal("project", lambda: PolyAI.list_conversations(REGION, "PROJECT-unknown"))
    print_refusal("limit", lambda: PolyAI.list_conversations(REGION, project, limit=-1))


if __name__ == "__main__":
    main(*sys.argv[1:])
