#!/usr/bin/env python3
"""The official `openai` client against `lockstep serve` with two ranks.

    test_openai.py LOCKSTEP MPIRUN CHAT_MODEL
"""
import asyncio
import os
import sys
import unittest

try:
    import openai
except ImportError:
    print("no openai here: python3 -m pip install -r tests/serve/requirements.txt")
    sys.exit(77)

import test_server
from test_server import PROMPT, SLOW, Server


class Client(unittest.TestCase):
    words = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.words, *SLOW)
        url = f"http://127.0.0.1:{cls.server.port}/v1"
        cls.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        cls.url = url

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        code, said = cls.server.stop()
        assert code == 0, said


class Completions(Client):
    def ask(self, **more):
        return self.client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, temperature=0,
                                              max_tokens=16, **more)

    def test_whole_and_streamed(self):
        whole = self.ask()
        self.assertEqual((whole.usage.completion_tokens, whole.choices[0].finish_reason), (16, "length"))
        parts = list(self.ask(stream=True, stream_options={"include_usage": True}))
        self.assertEqual("".join(p.choices[0].text for p in parts if p.choices), whole.choices[0].text)
        self.assertEqual(parts[-1].usage, whole.usage)

    def test_logprobs(self):
        c = self.ask(logprobs=2).choices[0]
        self.assertEqual("".join(c.logprobs.tokens), c.text)
        for token, lp, top in zip(c.logprobs.tokens, c.logprobs.token_logprobs, c.logprobs.top_logprobs,
                                  strict=True):
            self.assertLessEqual(lp, 0)
            self.assertEqual(top[token], lp)
            self.assertEqual(max(top.values()), lp)  # greedy

    def test_errors(self):
        with self.assertRaises(openai.NotFoundError) as e:
            self.client.completions.create(model="gpt-5", prompt="x")
        self.assertEqual(e.exception.code, "model_not_found")
        for param, more in (("n", {"n": 2}), ("echo", {"echo": True}), ("suffix", {"suffix": "x"}),
                            ("logit_bias", {"logit_bias": {"x": 1}}),
                            ("top_k", {"extra_body": {"top_k": -2}}),
                            ("stream_options", {"stream_options": {"include_usage": True}})):
            with self.subTest(param=param), self.assertRaises(openai.BadRequestError) as e:
                self.ask(**more)
            self.assertEqual(e.exception.param, param)

    def test_logit_bias(self):
        free = self.ask(logprobs=0).choices[0].logprobs.tokens
        self.assertEqual(self.ask(logit_bias={"0": -100}, logprobs=0).choices[0].logprobs.tokens, free)
        forced = self.ask(logit_bias={"300": 100}, logprobs=0).choices[0].logprobs.tokens
        self.assertEqual(len(set(forced)), 1)
        self.assertNotEqual(forced, free)

    def test_cancel(self):
        before = self.server.metric("request_cancelled_total")
        stream = self.client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, max_tokens=900,
                                                stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.server.wait_for("request_cancelled_total", before + 1)
        self.server.wait_for("num_requests_running", 0)

    def test_many_at_once(self):
        async def run():
            async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
                return await asyncio.gather(*(
                    client.completions.create(model="kjv-qwen3-3m", prompt=PROMPT, temperature=0,
                                              max_tokens=4 + i) for i in range(12)))
        texts = [c.choices[0].text for c in asyncio.run(run())]
        for shorter, longer in zip(texts, texts[1:]):
            self.assertTrue(longer.startswith(shorter), (shorter, longer))

    def test_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["kjv-qwen3-3m"])
        self.assertEqual(self.client.models.retrieve("kjv-qwen3-3m").id, "kjv-qwen3-3m")


class Chats(Client):
    """A model of random weights with a chat template: what counts is the form."""

    @classmethod
    def setUpClass(cls):
        cls.words = ("--model", MODEL, "--served-model-name", "chat")
        super().setUpClass()

    def ask(self, **more):
        return self.client.chat.completions.create(
            model="chat", messages=[{"role": "system", "content": "Be brief."},
                                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
            temperature=0, max_completion_tokens=8, **more)

    def test_whole_and_streamed(self):
        whole = self.ask(extra_body={"ignore_eos": True})
        self.assertEqual(whole.choices[0].message.role, "assistant")
        self.assertEqual(whole.usage.completion_tokens, 8)
        parts = list(self.ask(stream=True, extra_body={"ignore_eos": True}))
        self.assertEqual(parts[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(p.choices[0].delta.content or "" for p in parts),
                         whole.choices[0].message.content)
        self.assertEqual(parts[-1].choices[0].finish_reason, "length")

    def test_errors(self):
        """What is not there is refused by its name."""
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        for param, more in (
                ("tool_choice", {"tools": [tool], "tool_choice": "required"}),
                ("tool_choice", {"tools": [tool], "tool_choice": {"type": "function",
                                                                  "function": {"name": "f"}}}),
                ("functions", {"functions": [{"name": "f"}]}),
                ("response_format", {"response_format": {"type": "json_object"}}),
                ("top_logprobs", {"top_logprobs": 3})):
            with self.subTest(param=param), self.assertRaises(openai.BadRequestError) as e:
                self.ask(**more)
            self.assertEqual(e.exception.param, param)
        with self.assertRaises(openai.BadRequestError) as e:
            self.client.chat.completions.create(model="chat", messages=[{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:,"}}]}])
        self.assertEqual(e.exception.param, "messages[0].content[0]")

    def test_tools(self):
        """Offered, the prompt has them; with "none" it is as if there were none."""
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        plain = self.ask().usage.prompt_tokens
        self.assertGreater(self.ask(tools=[tool], parallel_tool_calls=False).usage.prompt_tokens, plain)
        self.assertEqual(self.ask(tools=[tool], tool_choice="none").usage.prompt_tokens, plain)

    def test_logprobs(self):
        entries = self.ask(logprobs=True, top_logprobs=3).choices[0].logprobs.content
        for e in entries:
            self.assertEqual(len(e.top_logprobs), 3)
            self.assertEqual(e.top_logprobs[0].logprob, e.logprob)


if __name__ == "__main__":
    test_server.LOCKSTEP, test_server.MPIRUN, MODEL = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3]
    unittest.main(argv=sys.argv[:1], verbosity=2)
