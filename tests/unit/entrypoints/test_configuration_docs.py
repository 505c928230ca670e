from pathlib import Path

from chatflow.entrypoints.settings import all_variables

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_lists_every_variable_with_its_default_and_meaning():
    expected = [
        f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |" for name, default, meaning in all_variables()
    ]
    assert [line for line in PAGE.read_text().splitlines() if line.startswith("| `CHATFLOW_")] == expected
