"""Models to the hub."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mtmamba.places import REPOSITORY


class PublishError(RuntimeError):
    """A model could not be published; the message says why and what to do."""


def publish(
    source: str | Path,
    repo: str,
    *,
    private: bool = False,
    half: bool = False,
    notes: str = "",
    extensions: Sequence[str] = (),
) -> str:
    """Push a model with its card to a repository of the hub, in one commit.

    The token is that of ``huggingface-cli login`` or HF_TOKEN; HF_ENDPOINT chooses another server.

    Args:
        source: anything that `mtmamba.load_model` reads.
        repo: ``owner/name``; made where it is not there.
        private: whether a new repository is.
        half: store weights in bfloat16.
        notes: a paragraph for the card.
        extensions: Python files of yours that the model needs.

    Returns:
        The address of the commit.

    Raises:
        PublishError: no such name, no token, no connection, or not allowed.
    """
    if not REPOSITORY.fullmatch(repo):
        raise PublishError(f"Expected repo=owner/name, got {repo}: correct it.")
    try:
        from huggingface_hub import HfApi, get_token
    except ImportError as error:
        raise PublishError("Expected huggingface_hub, got none: pip install 'mtmamba[hub]'.") from error
    if get_token() is None:
        raise PublishError("Expected a token of the hub, got none: log in with `hf auth login`, or set HF_TOKEN.")
    import torch  # not before: nobody waits for PyTorch to be told this

    from mtmamba.extensions import load_extensions
    from mtmamba.sharing import save_pretrained

    load_extensions(extensions)
    with tempfile.TemporaryDirectory() as folder:
        dtype = torch.bfloat16 if half else None
        model = save_pretrained(source, Path(folder) / repo.partition("/")[2], dtype=dtype, notes=notes)
        api = HfApi()
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo, folder_path=model, commit_message="Add the model")
        except Exception as error:  # refusals, and whatever the hub's HTTP library says of a connection
            reason = str(error).strip().partition("\n")[0]
            raise PublishError(
                f"Expected to write to {repo} on {api.endpoint}, got {reason}: check name and connection, and log in "
                "with `hf auth login`."
            ) from error
    sys.stdout.write(f"{commit.commit_url}\n")
    return str(commit.commit_url)
