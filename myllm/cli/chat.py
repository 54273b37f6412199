"""`Chat`: the interactive conversation, a line at a time.

What a person types is a question, or a command if it begins with `/`. Ctrl-C stops an answer and never the program,
Ctrl-D leaves. A question may have several lines: between `\"\"\"` and `\"\"\"`, after a backslash at a line's end, or with
Alt-Enter. The server holds the conversation; nothing is lost when this window closes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from myllm.cli.answer import clean, stream_answer
from myllm.cli.conversation import Conversation
from myllm.cli.terminal import local_time, note, say, show_error, write
from myllm.cli.transcript import save, speak
from myllm.client import Options, calls
from myllm.config import home_folder
from myllm.errors import InvalidRequest, ModelNotFound, MyLLMError

OPTIONS = tuple(Options.__annotations__)
QUOTES = '"""'
PROMPT = ">>> "


class Leave(Exception):
    """The person said goodbye."""


class Chat:
    """One person, one conversation. A command is a method of `commands`; its docstring is its help."""

    def __init__(self, conversation: Conversation, *, is_verbose: bool) -> None:
        self.conversation = conversation
        self.is_verbose = is_verbose
        self.commands: dict[str, Callable[[str], None]] = {
            "/help": self.help, "/bye": self.bye, "/exit": self.bye, "/clear": self.clear, "/session": self.session,
            "/sessions": self.sessions, "/history": self.history, "/system": self.system, "/set": self.set, "/show": self.show,
            "/model": self.model, "/retry": self.retry, "/save": self.save,
        }  # fmt: skip

    def run(self) -> None:
        """Until Ctrl-D or /bye."""
        self.conversation.load()
        note(f"{self.conversation.model}, session {self.conversation.id}. /help tells the commands, Ctrl-D leaves.")
        prompt: PromptSession[str] = PromptSession(
            history=open_history(), completer=CommandCompleter(self), key_bindings=key_bindings(), multiline=True,
            prompt_continuation="... ", complete_while_typing=False,
        )  # fmt: skip
        while True:
            try:
                self.take(prompt.prompt(PROMPT))
            except KeyboardInterrupt:
                if not prompt.default_buffer.text:  # else it has thrown away what was typed
                    note("(Ctrl-D or /bye leaves)")
            except (EOFError, Leave):
                break
        if self.conversation.has_begun:
            note(f"to go on: myllm run {self.conversation.model} --session {self.conversation.id}")

    def take(self, typed: str) -> None:
        """A question or a command. Errors are told, and the conversation goes on; Leave ends it."""
        try:
            if typed.startswith("/"):
                self.obey(typed)
            elif typed.strip():
                self.ask(unwrap(typed))
        except MyLLMError as error:
            show_error(error.message)

    def ask(self, question: str) -> None:
        try:
            stream_answer(self.conversation, clean(question), is_verbose=self.is_verbose)
        except KeyboardInterrupt:
            note("(stopped)")
        write("\n")

    def obey(self, typed: str) -> None:
        name, _, rest = typed.partition(" ")
        command = self.commands.get(name.strip())
        if command is None:
            raise InvalidRequest(f"there is no command {name.strip()}; /help tells which there are, a space in front sends it as text")
        command(rest.strip())

    def help(self, rest: str) -> None:
        """this list"""
        for name, command in self.commands.items():
            say(f"  {name:<10} {command.__doc__}")
        say('\n  Several lines: between """ and """, after a backslash at the end of a line, or with Alt-Enter.')
        say("  Ctrl-C stops an answer, Ctrl-D leaves.")

    def bye(self, rest: str) -> None:
        """leave; the conversation stays on the server"""
        raise Leave

    def clear(self, rest: str) -> None:
        """begin a new conversation"""
        self.conversation.restart()
        note(f"new session {self.conversation.id}")

    def session(self, rest: str) -> None:
        """tell this conversation's id, or go on in another: /session ID"""
        if rest:
            self.conversation.restart(self.conversation.client.read_session(rest).id)
        state = "" if self.conversation.has_begun else " (empty so far)"
        say(f"session {self.conversation.id}{state}")

    def sessions(self, rest: str) -> None:
        """the latest conversations on the server"""
        for session in self.conversation.client.sessions(limit=20):
            say(f"  {session.id}  {local_time(session.updated_at.isoformat())}  {session.title or ''}")

    def history(self, rest: str) -> None:
        """what was said so far"""
        speak(self.conversation.messages())

    def system(self, rest: str) -> None:
        """begin a new conversation with this system message: /system TEXT"""
        if rest:
            if self.conversation.has_begun:
                self.clear("")
            self.conversation.open_with(clean(unwrap(rest)))
        say(f"system message: {self.conversation.system or '(none)'}")

    def set(self, rest: str) -> None:
        """change how answers are made: /set temperature 0.5; without a value back to the model's own"""
        name, _, written = rest.partition(" ")
        if name:
            self._set(name, written.strip())
        options = self.conversation.options
        say("\n".join(f"  {key} = {_json(value)}" for key, value in options.items()) or "  (nothing is set)")

    def show(self, rest: str) -> None:
        """the model"""
        for key, value in self.conversation.client.request(calls.model(self.conversation.model)).items():
            say(f"  {key:<14} {value if isinstance(value, str) else _json(value)}")

    def model(self, rest: str) -> None:
        """go on with another model: /model NAME"""
        if rest:
            self.conversation.model = self.conversation.client.model(rest).name
        say(f"model {self.conversation.model}")

    def retry(self, rest: str) -> None:
        """ask the last question again, in a copy of the conversation"""
        question = self.conversation.take_back()
        if question is None:
            raise InvalidRequest("there is no question yet to ask again")
        self.ask(question)

    def save(self, rest: str) -> None:
        """write the conversation to a new file: /save FILE; .json keeps every detail, anything else is Markdown"""
        if not rest or not self.conversation.has_begun:
            raise InvalidRequest("there is nothing to save yet" if rest else "/save takes the name of a file")
        file = Path(rest).expanduser()
        save(self.conversation.stored(), file)
        say(f"saved in {file}")

    def _set(self, name: str, written: str) -> None:
        if name not in OPTIONS:
            raise InvalidRequest(f"there is no option {name}; it takes {', '.join(OPTIONS)}")
        options = {key: value for key, value in self.conversation.options.items() if key != name}
        if written:
            options[name] = _value(written)
            self._check({name: options[name]})
        self.conversation.options = options

    def _check(self, options: Any) -> None:
        """Raises InvalidRequest for an option out of range, without generating.

        The server judges a request's options before it looks for the model, and no model has an empty name.
        """
        with contextlib.suppress(ModelNotFound):
            self.conversation.client.generate("", "", **options)


class CommandCompleter(Completer):
    """Commands, and what follows them."""

    def __init__(self, chat: Chat) -> None:
        self.chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        typed = document.text_before_cursor
        command, space, rest = typed.partition(" ")
        if not typed.startswith("/") or "\n" in typed:
            return
        begun, words = (rest, self._arguments(command)) if space else (typed, self.chat.commands)
        for word in words:
            if word.startswith(begun):
                yield Completion(word, -len(begun))

    def _arguments(self, command: str) -> Iterable[str]:
        try:
            match command:
                case "/set":
                    return OPTIONS
                case "/model":
                    return [model.name for model in self.chat.conversation.client.models()]
                case "/session":
                    return [session.id for session in self.chat.conversation.client.sessions(limit=20)]
        except MyLLMError:  # the next question will tell
            pass
        return ()


def key_bindings() -> KeyBindings:
    """Enter sends what is complete, and breaks the line of what is not; Alt-Enter always breaks it."""
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter")
    def break_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def is_complete(typed: str) -> bool:
    """Is the question over at the end of this line?"""
    return typed.count(QUOTES) % 2 == 0 and not typed.endswith("\\")


def unwrap(typed: str) -> str:
    """The text without the quotes around it and the backslashes at the ends of its lines."""
    stripped = typed.strip()
    if stripped.startswith(QUOTES) and stripped.endswith(QUOTES) and stripped.count(QUOTES) == 2:
        return stripped.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return re.sub(r"\\\n", "\n", typed)


def open_history() -> History:
    """What was typed in earlier chats; it is kept where it can be, and a chat works without."""
    file = home_folder() / "history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("a").close()
    except OSError:
        return InMemoryHistory()
    file.chmod(0o600)
    return FileHistory(str(file))


def _value(written: str) -> Any:
    """JSON where it is JSON, so that numbers, lists and true are what they look like; else the text."""
    try:
        return msgspec.json.decode(written)
    except msgspec.DecodeError:
        return written


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
