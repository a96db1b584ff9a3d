"""Files on the Hugging Face Hub, and errors for files that are not available.

Its client takes long to import, and a model in a directory does without.
"""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from nelbo.base.errors import NelboError
from nelbo.base.suggestions import directories_near

# Time limit for the first response of the Hub; its client would try for half a minute.
_SECONDS_TO_ANSWER = 5.0
_SECONDS_REMEMBERED = 60.0


def download(hub_id: str, subfolder: str | None, names: tuple[str, ...], advice: str = "") -> Path:
    """The first of the named files that the Hub, or the local cache of it, holds.

    Args:
        hub_id: owner/name.
        subfolder: where in it the files are.
        names: names of files, the preferred one first.
        advice: what to do if none of them exists.

    Raises:
        NelboError: the Hub cannot be reached, or holds no such thing.
    """
    where = f"{hub_id}/{subfolder}" if subfolder else hub_id
    nothing_here = f"no directory {hub_id}{directories_near(Path(hub_id))}"
    offline = not _answers(hub_id, int(time.monotonic() // _SECONDS_REMEMBERED))
    for name in names:
        try:
            file = hf_hub_download(hub_id, name, subfolder=subfolder, local_files_only=offline)
        except EntryNotFoundError:  # another of the files may be there, or in the cache
            continue
        except RepositoryNotFoundError as error:
            raise NelboError(
                f"{nothing_here}, and nothing of that name that you may read on the Hub"
            ) from error
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise NelboError(
                f"{nothing_here}, and {name} cannot be had from the Hub: {error}"
            ) from error
        else:
            return Path(file)
    if offline:
        raise NelboError(
            f"{nothing_here}, and the Hub cannot be reached to look for {where}/{names[0]} "
            "there (it is not in the local cache either)"
        )
    raise NelboError(f"{where} on the Hub holds no {names[0]}{advice}")


@lru_cache
def _answers(hub_id: str, period: int) -> bool:
    """Whether the Hub responds; tried once for each repository and period."""
    try:
        get_hf_file_metadata(hf_hub_url(hub_id, "README.md"), timeout=_SECONDS_TO_ANSWER)
    except HfHubHTTPError:
        return True
    # What else is raised depends on the library that the client speaks HTTP with.
    except Exception:
        return False
    return True
