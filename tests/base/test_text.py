from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from catsdogs.base.text import quoted

# An id is the path of a file without its suffix.
_IDS = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(" '\"\\${}[],:=()%"), min_size=1)


@given(st.lists(_IDS, min_size=1, max_size=3))
@example(["cat.1", "dogs/dog 2", "a,b", "x'y", 'x"y', "\\", '\\"', "a\\", "${x}", "\\${x}", "\\\\${x}", "$", "a${"])
@example(["null", "true", "1", "007", "1e5", "1_000", "nan", "inf", "-1", "_", "*", "a=b", "[x]", "{y}", "choice(1,2)"])
def test_hydra_reads_quoted_ids_back(ids):
    override = OverridesParser.create().parse_override(f"data.ignore=[{','.join(map(quoted, ids))}]")
    config = OmegaConf.create({"ignore": override.value()})
    assert OmegaConf.to_container(config, resolve=True) == {"ignore": ids}
