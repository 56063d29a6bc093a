"""Untrusted YAML: plain values only, of bounded size, and no references, which a few lines can multiply endlessly."""

import yaml

from common.cli import UserError

MAX_CHARACTERS = 1 << 18  # twenty times the largest of ours


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers back to itself (*name), which is not read here")
        return super().compose_node(parent, index)


def parse_yaml(text: str, name):
    """The value that YAML `text` holds. UserError beginning with `name` if it is damaged, too long or refers back."""
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{name} is too long for a file of settings (over {MAX_CHARACTERS:,} characters)")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} is not YAML: {reason}") from None
