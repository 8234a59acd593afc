"""Captions are cleaned as diffusers' pipeline of DeepFloyd IF cleans them."""

import bs4  # without it, and without ftfy, diffusers only warns and cleans nothing
import ftfy  # noqa: F401
import pytest
from diffusers import IFPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from reimagen_jax.encoders.cleaning import cleaned

CAPTIONS = (
    "",
    "  A Corgi on a skateboard, 8K ",
    "<PERSON> in http://www.example.com/a/b?c=d and www.site.co.uk mail@host.com https:a",
    "buy%20now+here &amp;amp; there &quot;quoted&quot; &lt;b&gt;bold&lt;/b&gt;",
    "<p>a <b>dog</b> &amp; a cat</p><script>x</script><![CDATA[y]]> <!-- z -->",
    "@nick_name met @user2: 中文 カタカナ ㍿ 一二三 ㇰ",
    "dash – em — fig ‒ minus − wave 〜 hyphen‐minus ⸺",
    '`a´ «b» “c” ¨d¨ ‘e’ \'\'f\'\' """AUSVERKAUFT"""',
    "192.168.0.1 at 1:23   ",
    r"line\nbreak\tback\slash /slash/ {x} [y] (z) |w| *v*",
    "#1 #123 #1234 #12345 123456 12345 photo.jpg IMG_2031.JPEG a/b.png png images pdf",
    "this-is-my-cute-cat this_is_my_cat a-b c_d",
    "a-b_c-d",
    "jc6640 jc6640vc 6640vc231 j2d1a2a abc12 a1b",
    "worldwide free shipping free download download free click for more click on this page 12",
    "30x40 30×40 30х40 1.5x2.5 cm : colon , comma.word a,b a/b",
    "schÃ¶n cafÃ© â€œquotesâ€\x9d ＦＵＬＬ ﬁ",
    "'quoted' \"all of it\" -dash: trailing+ ;semi _under_",
    ".hidden",
    " . a . b ... c",
    "a\nb\tc\u00a0d\u2028e",
    "%E4%BD%A0 %zz 100% +",
)


def theirs(text):
    (text,) = IFPipeline._text_preprocessing(IFPipeline.__new__(IFPipeline), text, clean_caption=True)
    return text


@pytest.mark.parametrize("caption", CAPTIONS)
def test_captions_are_cleaned_as_theirs(caption):
    assert cleaned(caption) == theirs(caption)


PIECES = st.sampled_from(
    [
        *" \t\n.,:;-_'\"`´«“‘#@&<>/\\|*()[]{}+%~©aZx9х×–—中ㇰ",
        *("12", "123456", "png", ".jpg", "http://", "www.", ".com", "&amp;", "&quot", "&lt;b&gt;", "<b>", "</b>"),
        *(
            "<person>",
            "free ",
            "shipping",
            "download",
            "click on ",
            "page ",
            "jc6640",
            "Ã¶",
            "â€œ",
            "%20",
            "\\n",
            "images",
        ),
    ]
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_whatever_the_text(text):
    try:
        expected = theirs(text)
    except bs4.exceptions.ParserRejectedMarkup:
        return
    assert cleaned(text) == expected
