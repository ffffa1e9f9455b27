"""PolyAI's own client (PyPI: polyai-adk) against the simulator: lists, reads and downloads everything it finds.

    adk.py URL PROJECT_ID

The key comes in POLY_ADK_KEY. Prints a line of JSON for each conversation, oldest last as PolyAI has them, and one for
each thing that must not work. The client itself is untouched; only the table of PolyAI's hosts is pointed elsewhere.
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


def compile_as_3_14(self, data, path, *, _optimize=-1):
    """The client is for Python 3.14, which reads annotations late. Older ones do if they are asked to."""
    flags = __future__.annotations.compiler_flag if "/poly/" in path else 0
    return compile(data, path, "exec", flags=flags, dont_inherit=True, optimize=_optimize)


if sys.version_info < (3, 14):
    importlib.machinery.SourceFileLoader.source_to_code = compile_as_3_14
    # What was compiled otherwise is not for us, and what is compiled so is not for others.
    sys.pycache_prefix = "/nonexistent"
    sys.dont_write_bytecode = True

from poly.handlers.platform_api import PlatformAPIHandler as PolyAI  # noqa: E402
import requests  # noqa: E402


def show(**line):
    print(json.dumps(line), flush=True)


def pages(project):
    offset = 0
    while True:
        page = PolyAI.list_conversations(REGION, project, limit=PAGE, offset=offset)
        yield from page["conversations"]
        offset += len(page["conversations"])
        if not page["conversations"] or offset >= page["count"]:
            return


def sound(project, conversation, **how):
    """What a recording is, or the status of its absence."""
    try:
        data = PolyAI.get_conversation_audio(REGION, project, conversation, **how)
    except requests.HTTPError as error:
        return {"status": error.response.status_code}
    with wave.open(io.BytesIO(data)) as file:
        frames, rate = file.getnframes(), file.getframerate()
        read = len(file.readframes(frames)) // (file.getnchannels() * file.getsampwidth())
    assert read == frames, f"{read} of {frames} frames"
    return {"sha256": hashlib.sha256(data).hexdigest(), "seconds": frames / rate}


def refused(what, ask):
    try:
        ask()
        show(refused=what, status=None)
    except requests.HTTPError as error:
        body = error.response.json()
        show(refused=what, status=error.response.status_code, code=body.get("error_code"))


def main(url, project):
    PolyAI.region_to_base_url[REGION] = url
    for listed in pages(project):
        id = listed["conversationId"]
        whole = PolyAI.get_conversation(REGION, project, id)
        show(
            id=id,
            listed=listed,
            whole=whole,
            audio=sound(project, id),
            user=sound(project, id, direction="user"),
            redacted=sound(project, id, redacted=True),
        )
    refused("conversation", lambda: PolyAI.get_conversation(REGION, project, "CA-nobody-knows"))
    refused("project", lambda: PolyAI.list_conversations(REGION, "PROJECT-nobody-knows"))
    refused("limit", lambda: PolyAI.list_conversations(REGION, project, limit=-1))


if __name__ == "__main__":
    main(*sys.argv[1:])
