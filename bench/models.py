"""Every causal language model of transformers, built tiny: does ours compute what the library computes?

    python bench/models.py [--write] [MODEL_TYPE ...]     --write: the table of docs/models.md
    python bench/models.py --folder MODEL [--questions FILE.jsonl] [--count 20] [--tokens 64]
        a real model: does it answer so many questions, greedily, as with transformers.generate?

For each model type a random model of two layers is saved as a folder and loaded by `load_model`. It "works" if the
log-probs of padded and of packed rows, and the greedy tokens of the engine, are those of the library's own model, which
computes each row alone, without our attention and without a cache. Else `load_model` must refuse it in one sentence.
Anything else is a fault, named as such, and the exit status is 1.
"""
from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, logging
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_LMS

from ap.config import Config
from ap.engine.generate import sample
from ap.engine.model import load_model, token_logprobs
from ap.engine.sampling import Sampling
from ap.files import UserError, first_line
from ap.world.chat import prompt_ids, stop_ids

logging.set_verbosity_error()
PAGE = Path(__file__).resolve().parent.parent / "docs" / "models.md"
MARK = "<!-- written by bench/models.py -->\n"
VOCAB, NEW, MOST = 96, 12, 30_000_000
SECONDS = 60  # for one model type
CONFIG = Config(device="cpu", max_tokens=64)

# What makes a model small, by the names that its config may have for it.
SMALL = {
    32: "hidden_size n_embd d_model dim emb_dim embedding_size word_embed_proj_dim attention_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_decoder_layers "
       "num_key_value_heads n_kv_heads num_experts_per_tok moe_topk moe_top_k moe_k",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts "
       "num_local_experts n_routed_experts moe_num_experts",
    48: "intermediate_size ffn_dim ffn_hidden_size encoder_ffn_dim decoder_ffn_dim n_inner moe_intermediate_size "
        "shared_expert_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size "
        "intermediate_size_mlp moe_ffn_hidden_size dff",
    8: "head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim attention_head_dim rotary_dim rope_head_dim "
       "index_head_dim",
    16: "kv_lora_rank q_lora_rank state_size mamba_d_state hidden_size_per_layer_input index_topk "
        "mamba_d_head ssm_state_size",
    64: "max_position_embeddings n_positions n_ctx max_seq_len seq_length max_target_positions",
    VOCAB: "vocab_size vocab_size_per_layer_input unpadded_vocab_size",
    1: "first_k_dense_replace n_group topk_group num_nextn_predict_layers n_shared_experts num_shared_experts",
}
WANTED = {name: number for number, names in SMALL.items() for name in names.split()}
SHAPES: dict[str, dict] = {  # what these need besides
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2}, "cpmant": {"dim_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]}, "reformer": {"is_decoder": True},
    "zaya": {"num_experts_per_tok": 1}, **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid"), {
        "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_d_ssm": 64}),
    "roc_bert": {"pronunciation_vocab_size": 50, "shape_vocab_size": 50, "concat_input": False},
}


def tiny_config(kind: str, special_ids=(None, None, None)):
    """A config of this model type with two layers of width 32. special_ids: of the tokens that begin, end and pad."""
    plain = CONFIG_MAPPING[kind]()
    try:
        inner = plain.get_text_config()
    except ValueError:  # an encoder's and a decoder's
        inner = plain.get_text_config(decoder=True)
    known = {*inner.to_dict(), *inner.attribute_map}
    layers = getattr(inner, "num_hidden_layers", None)
    sizes = {name: number for name, number in WANTED.items() if name in known and _sized(_value(inner, name))}
    # What says something of each layer, such as layer_types: of the first one, and the next one that differs.
    lists = {name: list(value) for name in inner.to_dict()
             if isinstance(value := _value(inner, name), (list, tuple)) and len(value) == layers}
    kinds = lists.get("layer_types", [])
    other = next((i for i, one in enumerate(kinds) if one != kinds[0]), 1)
    sizes |= {name: [value[0], value[other]] for name, value in lists.items()}
    if "kv_lora_rank" in sizes:  # latent attention has as many keys as queries
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    sizes |= SHAPES.get(kind, {})
    tokens = [name for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in known]
    changes = sizes | dict(zip(tokens, special_ids))
    if inner is plain:
        return CONFIG_MAPPING[kind](**changes)
    [name] = [name for name in plain.sub_configs if getattr(plain, name) is inner]
    return CONFIG_MAPPING[kind](**{name: type(inner)(**changes).to_dict()})


def _value(config, name: str):
    try:
        return getattr(config, name, None)
    except Exception:  # one value a layer
        return "several"


def _sized(value) -> bool:
    return value is None or isinstance(value, int) and not isinstance(value, bool)


def tiny_model(kind: str):
    """A random float32 model, its weights so large that no two tokens are alike."""
    try:
        return _tiny_model(tiny_config(kind))
    except Exception as error:
        try:
            return _tiny_model(tiny_config(kind, (1, 2, 0)))  # some want these ids
        except Exception:
            raise error from None


def _tiny_model(config):
    with torch.device("meta"):
        size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST:
        raise ValueError(f"{size / 1e6:.0f} M parameters are not tiny")
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.15)
        model.eval()(input_ids=torch.tensor([[5, 6]]), use_cache=False)  # does the library itself run it?
    return model


class Refused(Exception):
    """load_model's one sentence."""


class NotBuilt(Exception):
    """There is nothing to compare with."""


def compare(kind: str, change=lambda config: None) -> str:
    """"" if ours equals the library's, else what differs. Raises Refused, or whatever else load_model raises."""
    model = tiny_model(kind)
    change(model.config)
    with tempfile.TemporaryDirectory() as folder:
        model.generation_config = GenerationConfig()
        model.save_pretrained(folder)
        try:
            library = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except Exception as error:
            raise NotBuilt(f"the library does not load what it saved ({first_line(error)})") from error
        try:
            ours = load_model(folder, CONFIG)
        except UserError as error:
            if len(str(error).splitlines()) > 1:
                return "refused in several lines"
            raise Refused(str(error).removeprefix(f"{folder}: ").replace(folder, "FOLDER")) from error
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(4, VOCAB, (length,), generator=generator).tolist() for length in (11, 3, 7)]
    with torch.no_grad():
        return _scores(ours, library, prompts) or _tokens(ours, library, prompts)


def _scores(ours, library, prompts) -> str:
    width = max(map(len, prompts))
    ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    mask = torch.tensor([[1] * len(prompt) + [0] * (width - len(prompt)) for prompt in prompts])
    for packed in (False, True):
        ours.packed = packed
        found, _ = token_logprobs(ours, ids, mask)
        for row, prompt in enumerate(prompts):
            logits = library(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].float()
            right = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(prompt[1:]).unsqueeze(1)).squeeze(1)
            far = (found[row, 1:len(prompt)] - right).abs().max().item()
            if not far < 1e-3:
                return f"log-probs of {'packed' if packed else 'padded'} rows differ by {far:.2g}"
    return ""


def _tokens(ours, library, prompts) -> str:
    seeds = [str(number) for number in range(len(prompts))]
    for prompt, conversation in zip(prompts, sample(ours, prompts, seeds, NEW, Sampling({-1}, temperature=0.0))):
        ids = list(prompt)
        for _ in range(NEW):
            ids.append(library(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax().item())
        if conversation.ids != ids:
            return f"greedy tokens differ: {conversation.ids[len(prompt):]}, the library's {ids[len(prompt):]}"
    return ""


def verdict(kind: str) -> tuple[str, str]:
    """("works" | "refused" | "not built" | "FAULT", why) of a model type."""
    signal.alarm(SECONDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tiny_model(kind)
        except Exception as error:  # a config that wants more than a few numbers made small
            return "not built", f"{type(error).__name__}: {first_line(error)}"
        try:
            fault = compare(kind)
            return ("FAULT", fault) if fault else ("works", "")
        except Refused as refusal:
            return "refused", str(refusal)
        except NotBuilt as reason:
            return "not built", str(reason)
        except Exception as error:
            return "FAULT", f"{type(error).__name__}: {first_line(error)}"
        finally:
            signal.alarm(0)


def too_slow(*_) -> None:
    raise TimeoutError(f"more than {SECONDS} seconds")


def compare_folder(folder: str, questions: list[str], tokens: int) -> int:
    """How many of the questions are answered by other tokens than transformers.generate's."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prompts = [prompt_ids(tokenizer, [{"role": "user", "content": question}]) for question in questions]
    with torch.no_grad():
        began = time.perf_counter()
        ours = load_model(folder, Config(device="cpu", dtype="float32"))
        print(f"loaded in {time.perf_counter() - began:.1f} s; stop tokens: {sorted(stop_ids(tokenizer))}", flush=True)
        found = sample(ours, prompts, questions, tokens, Sampling(stop_ids(tokenizer), temperature=0.0))
        del ours
        library = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        different = 0
        for number, (prompt, conversation) in enumerate(zip(prompts, found)):
            ids = library.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=tokens,
                                   eos_token_id=sorted(stop_ids(tokenizer)), pad_token_id=0)[0].tolist()
            different += ids != conversation.ids
            print(f"{number + 1}: {len(ids) - len(prompt)} tokens, {conversation.stopped}, "
                  f"{'equal' if ids == conversation.ids else 'DIFFERENT'}", flush=True)
    print(f"{folder}: {len(questions) - different} of {len(questions)} greedy replies equal transformers.generate's")
    return different


def main(arguments: list[str]) -> int:
    if "--folder" in arguments:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("--folder")
        parser.add_argument("--questions")
        for name, default in (("--count", 20), ("--tokens", 64)):
            parser.add_argument(name, type=int, default=default)
        options = parser.parse_args(arguments)
        questions = [f"What is {n} times {n + 3}, and why?" for n in range(options.count)]
        if options.questions:
            questions = [json.loads(line)["question"] for line in Path(options.questions).read_text().splitlines()]
        return int(bool(compare_folder(options.folder, questions[:options.count], options.tokens)))
    signal.signal(signal.SIGALRM, too_slow)
    kinds = [name for name in arguments if name != "--write"] or sorted(CAUSAL_LMS)
    table = []
    for kind in kinds:
        word, why = verdict(kind)
        table.append(f"| {kind} | {word} | {re.split('; (?:use|give) ', why)[0].replace('|', '/')} |\n")
        print(f"{kind:28s} {word:10s} {why}", flush=True)
    counts = Counter(line.split(" | ")[1] for line in table)
    print(", ".join(f"{count} {word}" for word, count in counts.most_common()))
    if "--write" in arguments:
        page = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
        PAGE.write_text(f"{page}{MARK}\n| model type | | why |\n|---|---|---|\n{''.join(table)}", encoding="utf-8")
    return int("FAULT" in counts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
