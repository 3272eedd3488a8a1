"""An exported folder on the Hugging Face hub. The login is that of `huggingface_hub`: no token passes through here."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from slamlab.errors import OptionError, StoreError


def check_target(name: str) -> None:
    """Refuse a name that is none, or a push without a login, before any work is done.

    Raises:
        OptionError: The name is not of the form OWNER/NAME.
        StoreError: Nobody is logged in.
    """
    try:
        validate_repo_id(name)
    except HFValidationError:
        name_is_good = False
    else:
        name_is_good = "/" in name
    if not name_is_good:
        raise OptionError("a model on the hub is named OWNER/NAME", repr(name), "write it so")
    if get_token() is None:
        raise StoreError("a push needs a login to the hub", "none", "run `hf auth login`, or leave out --push")


def push(folder: Path, name: str) -> str:
    """Upload a folder as a model, which is private unless it exists and is not, and return its address.

    Args:
        folder: What is uploaded.
        name: OWNER/NAME.

    Raises:
        StoreError: The hub did not take it; the folder stays as it is.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Export of SLAMLab")
    except (OSError, ValueError, HTTPError) as error:
        raise StoreError(
            f"the hub takes what is pushed to {name}",
            f"{type(error).__name__} ({str(error).splitlines()[0] if str(error) else 'no reason'})",
            f"the export lies in {folder}: check login and name, and upload it with `hf upload`",
        ) from None
    return str(address)
