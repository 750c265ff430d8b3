//===- Options.cpp - Command lines that teach -----------------------------===//

#include "tools/attnc/Options.h"

#include "lib/Support/File.h"

#include "llvm/ADT/STLExtras.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/WithColor.h"
#include "llvm/Support/raw_ostream.h"

using namespace attnc;
using namespace llvm;

void OptionTable::section(StringRef title) {
  Option heading;
  heading.help = title.str();
  heading.heading = true;
  options.push_back(heading);
}

void OptionTable::flag(StringRef name, bool &value, StringRef help) {
  options.push_back(
      {name.str(), "", help.str(), Arity::None, [&value](StringRef) {
         value = true;
         return Error::success();
       }});
}

void OptionTable::text(StringRef name, StringRef placeholder,
                       std::string &value, StringRef help) {
  options.push_back({name.str(), placeholder.str(), help.str(), Arity::One,
                     [&value](StringRef text) -> Error {
                       value = text.str();
                       return Error::success();
                     }});
}

void OptionTable::integer(StringRef name, std::optional<int64_t> &value,
                          int64_t least, int64_t most, StringRef help) {
  auto set = [&value, least, most, name = name.str()](StringRef text) -> Error {
    int64_t parsed;
    if (text.getAsInteger(10, parsed) || parsed < least || parsed > most)
      return makeError("--" + name + ": expected an integer from " +
                       Twine(least) + " to " + Twine(most) + ", got '" + text +
                       "'");
    value = parsed;
    return Error::success();
  };
  options.push_back({name.str(), "N", help.str(), Arity::One, set});
}

void OptionTable::number(StringRef name, double &value, StringRef help) {
  auto set = [&value, name = name.str()](StringRef text) -> Error {
    if (text.getAsDouble(value))
      return makeError("--" + name + ": expected a number, got '" + text + "'");
    return Error::success();
  };
  options.push_back({name.str(), "X", help.str(), Arity::One, set});
}

void OptionTable::choice(StringRef name, ArrayRef<StringRef> choices,
                         std::string &value, StringRef help, StringRef bare) {
  std::vector<std::string> known(choices.begin(), choices.end());
  auto set = [&value, known, name = name.str(),
              bare = bare.str()](StringRef text) -> Error {
    if (text.empty() && !bare.empty())
      text = bare;
    if (!is_contained(known, text)) {
      SmallVector<StringRef> candidates(known.begin(), known.end());
      return makeError("--" + name + ": expected one of " + join(known, ", ") +
                       ", got '" + text + "'" + didYouMean(text, candidates));
    }
    value = text.str();
    return Error::success();
  };
  options.push_back({name.str(), join(known, "|"), help.str(),
                     bare.empty() ? Arity::One : Arity::Optional, set});
}

void OptionTable::assignments(StringRef name, StringRef placeholder,
                              std::string &value, StringRef help) {
  text(name, placeholder, value, help);
  options.back().arity = Arity::Assignments;
}

void OptionTable::list(StringRef name, StringRef placeholder,
                       std::vector<std::string> &values, StringRef help) {
  options.push_back({name.str(), placeholder.str(), help.str(), Arity::Many,
                     [&values](StringRef text) -> Error {
                       values.push_back(text.str());
                       return Error::success();
                     }});
}

void OptionTable::positional(StringRef name, std::vector<std::string> &values,
                             size_t most, StringRef help) {
  positionals = &values;
  mostPositionals = most;
  positionalName = name.str();
  positionalHelp = help.str();
}

const OptionTable::Option *OptionTable::find(StringRef name) const {
  for (const Option &option : options)
    if (!option.heading && option.name == name)
      return &option;
  return nullptr;
}

/// `-o` and `--name` alike; a lone `-` is standard input.
static bool looksLikeOption(StringRef argument) {
  return argument.size() > 1 && argument[0] == '-' && !isDigit(argument[1]) &&
         argument[1] != '.';
}

static std::string dashes(StringRef name) {
  return (name.size() == 1 ? "-" : "--") + name.str();
}

Error OptionTable::unknown(StringRef name) const {
  SmallVector<StringRef> names;
  for (const Option &option : options)
    if (!option.heading)
      names.push_back(option.name);
  StringRef near = nearest(name, names);
  std::string hint =
      near.empty() ? "" : "; did you mean '" + dashes(near) + "'?";
  return makeError("unknown option '" + dashes(name) + "'" + hint +
                   "; see 'attnc help " + usage.substr(0, usage.find(' ')) +
                   "'");
}

Error OptionTable::parse(ArrayRef<StringRef> arguments) {
  for (size_t k = 0; k < arguments.size(); ++k) {
    StringRef argument = arguments[k];
    if (!looksLikeOption(argument)) {
      if (!positionals || positionals->size() == mostPositionals)
        return makeError("unexpected argument '" + argument +
                         "'; usage: attnc " + usage);
      positionals->push_back(argument.str());
      continue;
    }
    auto [name, value] = argument.ltrim('-').split('=');
    bool hasValue = argument.contains('=');
    const Option *option = find(name);
    if (!option)
      return unknown(name);
    if (option->arity == Arity::None && hasValue)
      return makeError(dashes(name) + " takes no value, got '" + value + "'");
    bool takesNext =
        option->arity == Arity::One || option->arity == Arity::Many;
    if (takesNext && !hasValue) {
      if (k + 1 == arguments.size() || looksLikeOption(arguments[k + 1]))
        return makeError(dashes(name) + " expects " + option->placeholder +
                         ", got nothing");
      value = arguments[++k];
    }
    // `--random B=1` cannot be a file.
    if (option->arity == Arity::Assignments && !hasValue &&
        k + 1 < arguments.size() && !looksLikeOption(arguments[k + 1]) &&
        arguments[k + 1].contains('='))
      value = arguments[++k];
    if (Error error = option->set(value))
      return error;
    std::string given = dashes(name);
    if (!value.empty())
      given += (hasValue ? "=" : " ") + value.str();
    givenOptions.push_back(given);
    givenNames.push_back(name.str());
    while (option->arity == Arity::Many && k + 1 < arguments.size() &&
           !looksLikeOption(arguments[k + 1])) {
      if (Error error = option->set(arguments[++k]))
        return error;
      givenOptions.back() += " " + arguments[k].str();
    }
  }
  return Error::success();
}

/// Wraps words to 79 columns, later lines indented.
static void printWrapped(raw_ostream &os, StringRef text, size_t indent) {
  size_t column = indent;
  SmallVector<StringRef> words;
  text.split(words, ' ', -1, false);
  for (StringRef word : words) {
    if (column + word.size() + 1 > 79) {
      os << '\n';
      os.indent(indent);
      column = indent;
    } else if (column > indent) {
      os << ' ';
      ++column;
    }
    os << word;
    column += word.size();
  }
  os << '\n';
}

void OptionTable::printHelp(raw_ostream &os) const {
  auto bold = [&](StringRef text) {
    WithColor(os, raw_ostream::SAVEDCOLOR, true) << text;
  };
  bold("usage: ");
  os << "attnc " << usage << "\n\n" << about << '\n';
  if (!positionalHelp.empty()) {
    os << "\n  " << positionalName << "\n      ";
    printWrapped(os, positionalHelp, 6);
  }
  for (const Option &option : options) {
    if (option.heading) {
      os << '\n';
      bold(option.help + ":\n");
      continue;
    }
    os << "  " << dashes(option.name);
    bool bracket =
        option.arity == Arity::Optional || option.arity == Arity::Assignments;
    if (!option.placeholder.empty()) {
      bool spaced = option.arity == Arity::Many || option.name.size() == 1;
      os << (bracket  ? "[="
             : spaced ? " "
                      : "=")
         << option.placeholder << (bracket ? "]" : "");
    }
    os << "\n      ";
    printWrapped(os, option.help, 6);
  }
  if (!examples.empty()) {
    os << '\n';
    bold("examples:\n");
    os << examples << '\n';
  }
}
