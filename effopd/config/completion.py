"""Tab completion of `effopd` command lines. Standard library only; the groups come from `register.py`."""

from collections.abc import Mapping, Sequence

from effopd.config.keys import SETTINGS, choices_of

# Bash hands over the whole line and replaces the word under the cursor only from its last `=` or `:` on, so what stands
# before them is cut off again. `-o default` completes file names wherever there is nothing better.
BASH = r"""_effopd_complete() {
    local line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    local kept="${word%"${word##*[=:]}"}"
    local candidates
    mapfile -t candidates < <("${COMP_WORDS[0]}" completion query "$line" 2>/dev/null)
    COMPREPLY=("${candidates[@]#"$kept"}")
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} != *[=.] ]] && compopt +o nospace
}
complete -o nospace -o default -F _effopd_complete effopd
"""


def candidates(
    line: str, commands: Sequence[str], groups: Mapping[str, Sequence[str]], studies: Sequence[str]
) -> list[str]:
    """What the last word of `line` can become, sorted; empty where a file name is wanted.

    `groups` maps every group to its files, `studies` are those that `effopd study` knows by name. Example: `effopd train accelerate=k` gives `["accelerate=kl_gated"]`.
    """
    words = line.split(" ")
    word = words[-1]
    if len(words) == 2:
        return sorted(command for command in commands if command.startswith(word))
    if len(words) < 2 or words[1] not in ("train", "eval", "doctor", "plan", "study"):
        return []
    if words[1] == "study" and len(words) == 3:
        return sorted(study for study in studies if study.startswith(word))
    key, equals, _ = word.partition("=")
    if equals:
        values = groups[key] if key in groups else choices_of(SETTINGS[key]) if key in SETTINGS else []
        found = [f"{key}={value}" for value in values]
    else:
        # One level at a time: `learner.` before `learner.lr=`.
        depth = word.count(".")
        found = [f"{name}=" for name in groups]
        for name in SETTINGS:
            parts = name.split(".")
            found.append(f"{name}=" if len(parts) == depth + 1 else ".".join(parts[: depth + 1]) + ".")
    return sorted({candidate for candidate in found if candidate.startswith(word)})
