import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.training.masking import masked_arguments, masked_text, masked_value

HEX = "0123456789abcdef0123456789abcdef01234567"


def line(*arguments: str) -> list[str]:
    return masked_arguments(arguments)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["--password", "hunter 2"], ["--password", "***"]),
        (["--password=hunter 2"], ["--password=***"]),
        (["--password", "1234"], ["--password", "***"]),
        (["--db_passwd", "x"], ["--db_passwd", "***"]),
        (["--dbPassword", "x"], ["--dbPassword", "***"]),
        (["--pass-phrase", "x", "--ssh-passphrase", "y"], ["--pass-phrase", "***", "--ssh-passphrase", "***"]),
        (["--token", "abc", "data"], ["--token", "***", "data"]),
        (["-token", "abc"], ["-token", "***"]),
        (["--hf-token=abc"], ["--hf-token=***"]),
        (["--api-key", "abc"], ["--api-key", "***"]),
        (["--apikey", "abc"], ["--apikey", "***"]),
        (["--client-secret", "abc"], ["--client-secret", "***"]),
        (["WANDB_API_KEY=abc"], ["WANDB_API_KEY=***"]),
        (["OPENAI_KEY=abc"], ["OPENAI_KEY=***"]),
        (["-e", "HF_TOKEN=abc"], ["-e", "HF_TOKEN=***"]),
        (["+logger.wandb.api_key=abc"], ["+logger.wandb.api_key=***"]),
        (["--wandb-key", HEX], ["--wandb-key", "***"]),
        (["--key", HEX], ["--key", "***"]),
        (["--session-cookie", HEX], ["--session-cookie", "***"]),
        (["--access-key-id", "AKIAIOSFODNN7EXAMPLE"], ["--access-key-id", "***"]),
        (["--service-key", "6f1b7c0e-9d6c-4c0e-8f8e-0123456789ab"], ["--service-key", "***"]),
        (['--config={"api_key": "a b", "lr": 1}'], ['--config={"api_key": "***", "lr": 1}']),
        (["{'token': 'abc', 'lr': 0.1}"], ["{'token': '***', 'lr': 0.1}"]),
        (["-c", "login(token='abc'); train()"], ["-c", "login(token='***'); train()"]),
        (["-H", "X-Api-Key: abc"], ["-H", "X-Api-Key: ***"]),
        (["-H", "Authorization: Basic dXNlcjpwdw=="], ["-H", "Authorization: ***"]),
        (["-H", "Proxy: Bearer abc.def"], ["-H", "Proxy: Bearer ***"]),
        (["https://me:pw@host:80/data"], ["https://***@host:80/data"]),
        (["--db=postgres://me:p@w@host/db"], ["--db=postgres://***@host/db"]),
        ([f"https://{HEX}@github.com/x"], ["https://***@github.com/x"]),
        ([f"https://blob/x?sv=2024&sig={HEX}&se=1"], ["https://blob/x?sv=2024&sig=***&se=1"]),
        (["https://host/x?a=1&token=abc"], ["https://host/x?a=1&token=***"]),
        (["--model", "hf_" + "aB3" * 12], ["--model", "***"]),
        (["ghp_" + "a1B2" * 9], ["***"]),
        (["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_9"], ["***"]),
        (["-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n--lr"], ["***\n--lr"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_secrets_are_masked_and_the_rest_is_shown(arguments, shown):
    assert line("train.py", *arguments, "--lr", "0.1") == ["train.py", *shown, "--lr", "0.1"]


@pytest.mark.parametrize(
    "text",
    [
        "--key-frames 3 --keyframe-interval 10 --num-keys 8 --key-dim 64 --key 3",
        "--sort-key loss --primary-key id --image-key image_0 --monkey business --key loss",
        "--max-tokens 512 --num-token 5 --token-dropout 0.1 --tokens-per-batch 4096 --token 16",
        "--pad-token <pad> --eos_token </s> --mask-token [MASK] --stop-token stop --pad-token-id 0",
        "--tokenizer bert-base-uncased --token-type bpe --tokenizer-path a/b",
        "--password-file /run/pw --api-key-env OPENAI_KEY --token-path ~/.token --secret-name db --access-key-id me",
        "--use-auth-token true --use_auth_token=True --token none --password=",
        "--author me --authors 3 --compass north --passes 3 --signal USR1 --session 3 --pattern x --patience 5",
        "--seed 1234567890123456789 --run 20240101T120000abcdef12 --commit 0123456789abcdef0123456789abcdef01234567",
        "--data data/train2017/images --key data/train2017/images --url https://host/x?a=1&page=2",
        "git@github.com:me/x.git ssh://git@github.com/me/x.git s3://bucket/key=3/part-0",
        "--lr=0.1 model.dim=64 +trainer.max_epochs=3 ~callbacks - -- -1 -v a:b",
    ],
)
def test_what_only_sounds_like_a_secret_is_shown(text):
    assert line(*text.split(" ")) == text.split(" ")


def test_a_flag_without_a_value_masks_nothing_else():
    assert line("--token", "--lr", "0.1") == ["--token", "--lr", "0.1"]
    assert line("--password") == ["--password"]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("SLURM_JWT", "abc", "***"),
        ("SLURM_JOB_NAME", "token=abc lr", "token=*** lr"),
        ("NCCL_SOCKET_IFNAME", "eth0", "eth0"),
        ("SLURM_JOB_ID", "123456789", "123456789"),
        ("SLURM_KEY", "abc", "***"),
        ("MASTER_ADDR", "node-17", "node-17"),
    ],
)
def test_variables_are_masked_by_their_names(name, value, shown):
    assert masked_value(name, value) == shown


@given(
    secret=st.binary(min_size=18, max_size=40).map(lambda data: "k9Z" + base64.b32encode(data).decode().strip("=")),
    form=st.sampled_from(
        [
            "--token {}", "--api-key={}", "DB_PASSWORD={}", "x.secret={}", '{{"auth_token":"{}"}}', "https://u:{}@host/",
            "https://host/?key={}&x=1", "postgres://{}@host", "-H Authorization:\tBearer\t{}", "--wandb-key {}",
        ]
    ),
    around=st.lists(st.sampled_from(["--lr", "0.1", "-v", "data", "--amp", "a=b"]), max_size=4),
)  # fmt: skip
def test_a_secret_is_found_in_every_form_and_leaves_no_trace(secret, form, around):
    shown = line(*around, *form.format(secret).split(" "))
    assert not any(secret[i : i + 6] in one for one in shown for i in range(len(secret) - 6))
    assert shown[: len(around)] == around or around[-1:] == ["--lr"]


@given(st.text(max_size=300))
def test_any_text_is_read_and_masking_twice_is_masking_once(text):
    once = masked_text(text)
    assert masked_text(once) == once


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "a=",
        "--",
        "'",
        '"a": "',
        "a:b@",
        "://",
        "bearer ",
        "eyJ",
        "k.k-",
        " =",
        "authorization:",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_text_is_searched_up_to_a_length_and_left_out_beyond(piece):
    text = (piece * 4096)[:4096]
    assert len(masked_text(text)) <= 4 * 4096
    assert masked_text(text + "x") == "(4097 characters)"
    assert line("-c", "x" * 10_000 + " password=abc") == ["-c", "(10013 characters)"]
