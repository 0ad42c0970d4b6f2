// Between Python's tensors and the passes over memory. Nothing is linked against torch: tensors are
// described by DLPack's exchange functions, found on the tensor type, so one build serves every
// torch. What the passes cannot do right is refused here, by a sentence, before anything is written.
#include <dlpack/dlpack.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <structmember.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "dispatch.h"
#include "updates.h"

namespace nb = nanobind;

namespace sgdm {
namespace {

// An attribute of a class that keeps it in a slot, read where it lies: looking it up takes 25 ns, and
// a step of sharded tensors reads five of each.
class Slot {
  public:
    Slot() = default;
    Slot(nb::handle type, const char* name) : name_(nb::str(name).release().ptr()) {
        const nb::object found = type.attr(name);
        if (Py_TYPE(found.ptr()) == &PyMemberDescr_Type)
            offset_ = reinterpret_cast<PyMemberDescrObject*>(found.ptr())->d_member->offset;
    }

    nb::object of(nb::handle object) const {
        if (offset_ > 0) {
            PyObject* value =
                *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(object.ptr()) + offset_);
            if (value != nullptr) return nb::borrow(value);
        }
        nb::object value = nb::steal(PyObject_GetAttr(object.ptr(), name_));
        if (!value.is_valid()) throw nb::python_error();
        return value;
    }

  private:
    PyObject* name_ = nullptr;
    Py_ssize_t offset_ = 0;
};

// What is asked of the installed torch once, when the module is set up.
struct Torch {
    PyTypeObject* tensor = nullptr;
    PyTypeObject* parameter = nullptr;
    PyTypeObject* sharded = nullptr;  // DTensor, once one was seen: loading it takes a second
    Slot local_tensor, spec;          // its shard and how it is laid out
    nb::object plain_getters;         // a context in which a subclass's attributes are torch's own
    PyObject* is_neg = nullptr;
    nb::object increment_version, get_num_threads, norm_of;
    const DLPackExchangeAPI* dlpack = nullptr;
    Team team = serial_team;
    const Kernels* kernels = &kernels_baseline;
};
Torch& torch = *new Torch;  // never destroyed: Python may be gone by then

// A tensor that the passes cannot serve, and why.
struct Refusal {
    std::string reason;
};

[[noreturn]] void refuse(const char* what, const std::string& why) {
    throw Refusal{std::string("a ") + what + " is " + why};
}

Format format_of(const DLDataType& type, const char* what) {
    if (type.lanes == 1) {
        if (type.code == kDLFloat && type.bits == 32) return Format::single;
        if (type.code == kDLFloat && type.bits == 64) return Format::wide;
        if (type.code == kDLFloat && type.bits == 16) return Format::half;
        if (type.code == kDLBfloat && type.bits == 16) return Format::brain;
    }
    refuse(what, "of a dtype other than float64, float32, float16 and bfloat16");
}

Shape shape_of(const DLTensor& x) { return {x.ndim, x.shape, x.strides}; }

bool is_negated(PyObject* tensor) {
    PyObject* answer = PyObject_Vectorcall(torch.is_neg, &tensor, 1, nullptr);
    if (answer == nullptr) throw nb::python_error();
    Py_DECREF(answer);
    return answer == Py_True;
}

// The name of an attribute, made once.
class Name {
  public:
    explicit Name(const char* text) : name_(PyUnicode_InternFromString(text)) {}

    nb::object of(nb::handle object) const {
        nb::object value = nb::steal(PyObject_GetAttr(object.ptr(), name_));
        if (!value.is_valid()) throw nb::python_error();
        return value;
    }

  private:
    PyObject* name_;
};

double number(nb::handle from, const char* name) {
    const nb::object value = from.attr(name);
    if (!PyFloat_Check(value.ptr()) && !PyLong_Check(value.ptr()))
        throw Refusal{std::string("autograd goes through a hyperparameter, by ") + name};
    const double result = PyFloat_AsDouble(value.ptr());
    if (result == -1.0 && PyErr_Occurred()) throw nb::python_error();
    return result;
}

Rule read_rule(nb::handle rule) {
    const nb::object c = rule.attr("coefficients"), weight = rule.attr("average_weight");
    const auto buffer = nb::cast<nb::str>(c.attr("buffer"));
    const std::string_view name(buffer.c_str());
    const int maximize = PyObject_IsTrue(nb::object(rule.attr("maximize")).ptr());
    if (maximize < 0) throw nb::python_error();
    return {number(c, "coupled_decay"),
            number(c, "retain"),
            number(c, "gain"),
            number(c, "buffer_weight"),
            number(c, "gradient_weight"),
            number(c, "keep"),
            number(c, "step"),
            name == "running" ? Buffer::running
            : name == "first" ? Buffer::first
                              : Buffer::none,
            maximize == 1,
            weight.is_none() ? 0.0 : number(rule, "average_weight")};
}

// What is remembered of an optimizer from one step to the next. It makes steps faster and changes
// nothing else. It holds on to no tensor.
class Memory {
  public:
    std::vector<std::uint32_t> order;  // of the tensors in memory
    Py_ssize_t place_in_state = 0;     // of the next parameter, if the state is in their order

    // The rule of the i-th part. Python's cannot change, so it is read once.
    const Rule& rule(std::size_t i, nb::object given) {
        if (rules_.size() <= i) rules_.resize(i + 1);
        if (!rules_[i].first.is(given)) rules_[i] = {given, read_rule(given)};
        return rules_[i].second;
    }

  private:
    std::vector<std::pair<nb::object, Rule>> rules_;
};

bool is_plain(nb::handle tensor) {
    PyTypeObject* type = Py_TYPE(tensor.ptr());
    return type == torch.tensor || type == torch.parameter;
}

// A tensor as DLPack describes it. DLPack is silent about what torch keeps in flags, so torch is
// asked, at every step: a flag can change where object and memory stay. It takes 65 ns.
DLTensor describe_anywhere(PyObject* object, const char* what) {
    if (!is_plain(object))
        refuse(what, std::string("of the type ") + Py_TYPE(object)->tp_name +
                         ", whose elements may not be where they seem");
    DLTensor x;
    if (torch.dlpack->dltensor_from_py_object_no_sync(object, &x) != 0) {
        PyErr_Clear();
        refuse(what, "not a plain strided tensor");
    }
    if (is_negated(object)) refuse(what, "a negated view");
    if (x.data == nullptr && count_of(shape_of(x)) != 0) refuse(what, "without memory");
    return x;
}

DLTensor describe(PyObject* object, const char* what) {
    const DLTensor x = describe_anywhere(object, what);
    if (x.device.device_type != kDLCPU) refuse(what, "not on the CPU");
    return x;
}

// A plan whose tensors have been looked at: what the protocol PreparedStep asks for. It holds on to
// the tensors, which must stay as they are until it has been run.
class PreparedStep {
  public:
    // `fresh` holds, for each part, the room for its new buffers, or None.
    PreparedStep(nb::list parts, nb::list fresh, Memory& memory) : parts_(parts) {
        memory.place_in_state = 0;
        if (fresh.size() != parts.size())
            throw nb::value_error("each part must have an entry in `fresh`");
        rules_.reserve(parts.size());
        for (std::size_t i = 0; i < parts.size(); ++i) add(parts[i], fresh[i], i, memory);
        if (any_overlap(stretches_, memory.order)) throw Refusal{"two of the tensors share memory"};
    }

    PreparedStep(const PreparedStep&) = delete;
    PreparedStep& operator=(const PreparedStep&) = delete;

    void step(double scale) {
        if (elements_ < kHoldsLock) {
            sgdm::step(*torch.kernels, updates_, scale, {torch.team, 1});
        } else {
            const Threads threads = all_threads();
            const nb::gil_scoped_release others_go_on;
            sgdm::step(*torch.kernels, updates_, scale, threads);
        }
        torch.increment_version(written_);
        for (const auto& [part, buffers] : fresh_) part.attr("buffers") = buffers;
    }

    // What norm_of makes of the partial sums of all gradients' squares, and of the first parameter
    // whose gradient is not finite, or None.
    nb::object gradient_norm() const {
        GradientSquares squares;
        {
            const Threads threads = all_threads();
            const nb::gil_scoped_release others_go_on;
            squares = gradient_squares(*torch.kernels, updates_, threads);
        }
        nb::object nonfinite = nb::none();
        if (squares.nonfinite) nonfinite = nb::borrow(params_[*squares.nonfinite]);
        return torch.norm_of(nb::cast(squares.partial_sums), nonfinite);
    }

    std::uint32_t bare_pass(bool reads_before) const {
        const Threads threads = all_threads();
        const nb::gil_scoped_release others_go_on;
        return sgdm::bare_pass(*torch.kernels, updates_, reads_before, threads);
    }

  private:
    // A step of so few elements takes less than passing the interpreter's lock to and fro.
    static constexpr std::int64_t kHoldsLock = 1 << 14;

    static Threads all_threads() {
        return {torch.team, nb::cast<int>(torch.get_num_threads())};
    }

    static void extend(nb::list& list, nb::handle more) {
        const Py_ssize_t end = PyList_GET_SIZE(list.ptr());
        if (PyList_SetSlice(list.ptr(), end, end, more.ptr()) != 0) throw nb::python_error();
    }

    struct Column {
        const nb::object tensors;  // a list, or None
        const char* name;
        bool written;
        Operand Update::*operand;
    };

    void add(nb::handle part, nb::handle fresh, std::size_t index, Memory& memory) {
        static const Name rule("rule"), params_name("params"), gradients("gradients"),
            buffers("buffers"), averages("averages");
        rules_.push_back(memory.rule(index, rule.of(part)));
        const nb::list params(params_name.of(part));
        const bool makes = !fresh.is_none(), fits_float = rules_.back().fits_float();
        nb::object held = nb::none();  // a frozen buffer is not touched
        if (rules_.back().buffer != Buffer::none) held = makes ? nb::borrow(fresh) : buffers.of(part);
        const Column columns[] = {
            {gradients.of(part), "gradient", false, &Update::g},
            {held, "momentum_buffer", true, &Update::b},
            {averages.of(part), "moving average", true, &Update::a}};
        const std::size_t n = params.size();
        if (held.is_none() && rules_.back().buffer != Buffer::none)
            throw Refusal{"a buffer is missing"};
        for (const Column& column : columns) {
            if (column.tensors.is_none() && column.written) continue;
            if (!PyList_Check(column.tensors.ptr()))
                throw nb::type_error("the tensors of a part must be in lists");
            if (nb::len(column.tensors) != n)
                throw nb::value_error("the lists of a part must have the same length");
        }
        updates_.reserve(updates_.size() + n);
        stretches_.reserve(stretches_.size() + 4 * n);
        for (std::size_t i = 0; i < n; ++i) {
            PyObject* param = PyList_GET_ITEM(params.ptr(), i);
            const DLTensor p = describe(param, "parameter");
            const Shape shape = shape_of(p);
            if (p.dtype.bits != 64 && !fits_float)
                throw Refusal{"a coefficient is too large for float32"};
            if (!is_dense(shape)) refuse("parameter", "a view that leaves gaps in its memory");
            Update update{};
            update.rule = &rules_.back();
            update.count = count_of(shape);
            update.p = operand(p, "parameter", true);
            for (const Column& column : columns)
                if (!column.tensors.is_none())
                    update.*column.operand = beside(p, shape, column, i);
            if (update.count == 0) continue;
            updates_.push_back(update);
            params_.push_back(param);
            elements_ += update.count;
        }
        extend(written_, params);
        for (const Column& column : columns)
            if (column.written && !column.tensors.is_none()) extend(written_, column.tensors);
        if (makes) fresh_.emplace_back(nb::borrow(part), nb::borrow(fresh));
    }

    // The tensor of a column that belongs to parameter p.
    Operand beside(const DLTensor& p, const Shape& shape, const Column& column, std::size_t i) {
        const DLTensor x = describe(PyList_GET_ITEM(column.tensors.ptr(), i), column.name);
        if (x.ndim != p.ndim || !std::equal(x.shape, x.shape + x.ndim, p.shape))
            refuse(column.name, "of another shape than its parameter");
        Operand found = operand(x, column.name, column.written);
        if ((found.format == Format::wide) != (p.dtype.bits == 64))
            refuse(column.name, "float64 and its parameter is not, or the other way round");
        const Shape own = shape_of(x);
        if (count_of(own) != 0 && !same_strides(shape, own)) {
            if (column.written && !is_dense(own))
                refuse(column.name, "a view that leaves gaps in its memory");
            found.walk = walks_.emplace_back(std::make_unique<Walk>(shape, own)).get();
            // Along an expanded dimension torch's compiler takes the product out of the loop, and
            // rounds it: other bits than anywhere else.
            if (found.walk->repeats()) refuse(column.name, "expanded along its fastest dimension");
        }
        return found;
    }

    Operand operand(const DLTensor& x, const char* name, bool written) {
        const Shape shape = shape_of(x);
        const Format format = format_of(x.dtype, name);
        char* data = static_cast<char*>(x.data) + x.byte_offset;
        if (count_of(shape) != 0) {
            const auto begin = reinterpret_cast<std::uintptr_t>(data);
            const auto bytes = (extent_of(shape) + 1) * size_of(format);
            stretches_.push_back({begin, begin + static_cast<std::uintptr_t>(bytes), written});
        }
        return {data, format, nullptr};
    }

    nb::list parts_;
    std::vector<Rule> rules_;  // as many as there are parts: they do not move
    std::vector<std::unique_ptr<const Walk>> walks_;
    std::vector<Update> updates_;
    std::vector<PyObject*> params_;  // of the updates
    std::vector<Stretch> stretches_;
    nb::list written_;
    std::vector<std::pair<nb::object, nb::object>> fresh_;
    std::int64_t elements_ = 0;
};

// Where tensors of any device are, and what else may change from one step to the next: for engines
// that keep both on a device and write them anew where they differ. Bytes, of 64-bit integers:
// comparing and uploading them is one call. In Python it takes 1.4 us a tensor.
nb::object look(nb::list written, nb::list read, Memory& memory) {
    std::vector<std::int64_t> addresses[2], facts;
    std::vector<Stretch> stretches;
    for (const bool writes : {true, false}) {
        const nb::list& tensors = writes ? written : read;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tensors.ptr()); ++i) {
            PyObject* tensor = PyList_GET_ITEM(tensors.ptr(), i);
            const DLTensor x = describe_anywhere(tensor, writes ? "tensor" : "gradient");
            const Shape shape = shape_of(x);
            const auto begin = reinterpret_cast<std::uintptr_t>(x.data) + x.byte_offset;
            addresses[writes ? 0 : 1].push_back(static_cast<std::int64_t>(begin));
            facts.insert(facts.end(), {x.device.device_type, x.device.device_id, x.dtype.code,
                                       x.dtype.bits, x.dtype.lanes, x.ndim});
            facts.insert(facts.end(), x.shape, x.shape + x.ndim);
            facts.insert(facts.end(), x.strides, x.strides + x.ndim);
            if (count_of(shape) == 0) continue;
            const auto bytes = (extent_of(shape) + 1) * ((x.dtype.bits * x.dtype.lanes + 7) / 8);
            stretches.push_back({begin, begin + static_cast<std::uintptr_t>(bytes), writes});
        }
    }
    if (any_overlap(stretches, memory.order)) throw Refusal{"two of the tensors share memory"};
    const auto as_bytes = [](const std::vector<std::int64_t>& numbers) {
        return nb::bytes(reinterpret_cast<const char*>(numbers.data()), 8 * numbers.size());
    };
    return nb::make_tuple(as_bytes(addresses[0]), as_bytes(addresses[1]), as_bytes(facts));
}

// Whether a group holds the very objects that it held; what is missing is None. In Python this takes
// 0.6 us a group, here 0.2.
bool holds(nb::dict group, nb::tuple names, nb::tuple values) {
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names.ptr()); ++i) {
        PyObject* value =
            PyDict_GetItemWithError(group.ptr(), PyTuple_GET_ITEM(names.ptr(), i));
        if (value == nullptr && PyErr_Occurred()) throw nb::python_error();
        if ((value == nullptr ? Py_None : value) != PyTuple_GET_ITEM(values.ptr(), i)) return false;
    }
    return true;
}

// A list that is made at its full length and then cut to what came: appending takes longer.
class Row {
  public:
    explicit Row(Py_ssize_t room) : list_(nb::steal<nb::list>(PyList_New(room))) {}

    void put(nb::object x) { PyList_SET_ITEM(list_.ptr(), size_++, x.release().ptr()); }

    nb::list take() {
        Py_SET_SIZE(reinterpret_cast<PyVarObject*>(list_.ptr()), size_);  // the rest is empty
        return std::move(list_);
    }

  private:
    nb::list list_;
    Py_ssize_t size_ = 0;
};

// The state of a parameter, or nullptr. States are made in the order of the parameters, so the next
// one is looked at first: to ask the dict takes 60 ns, most of it for the hash, which is Python.
PyObject* state_of(PyObject* param, nb::dict state, Py_ssize_t& place) {
    Py_ssize_t next = place;
    PyObject *key = nullptr, *held = nullptr;
    if (PyDict_Next(state.ptr(), &next, &key, &held) && key == param) {
        place = next;
        return held;
    }
    if (PyDict_GET_SIZE(state.ptr()) == 0) return nullptr;  // no momentum: hashing is 85 ns
    held = PyDict_GetItemWithError(state.ptr(), param);
    if (held == nullptr && PyErr_Occurred()) throw nb::python_error();
    return held;
}

// Entered at the first DTensor: without it torch looks for an override at each attribute, and the
// gradient of one takes 255 ns, with it 78.
class PlainGetters {
  public:
    PlainGetters() = default;
    PlainGetters(const PlainGetters&) = delete;
    PlainGetters& operator=(const PlainGetters&) = delete;
    ~PlainGetters() {
        if (!context_.is_valid()) return;
        const nb::error_scope pending;
        nb::object done = nb::steal(PyObject_CallMethod(context_.ptr(), "__exit__", "OOO", Py_None,
                                                        Py_None, Py_None));
        if (!done.is_valid()) PyErr_WriteUnraisable(context_.ptr());
    }

    void enter() {
        if (context_.is_valid()) return;
        nb::object context = torch.plain_getters();
        context.attr("__enter__")();
        context_ = std::move(context);
    }

  private:
    nb::object context_;
};

// The part of a DTensor that this process holds, if it is there and plain; otherwise nothing.
nb::object shard_of(nb::handle whole) {
    if (Py_TYPE(whole.ptr()) != torch.sharded) return {};
    nb::object shard = torch.local_tensor.of(whole);
    return Py_TYPE(shard.ptr()) == torch.tensor ? shard : nb::object();
}

bool lie_alike(nb::handle a, nb::handle b) {
    static const Name mesh("mesh"), placements("placements");
    const nb::object x = torch.spec.of(a), y = torch.spec.of(b);
    if (x.is(y)) return true;  // as fully_shard makes them; comparing takes a microsecond
    if (!mesh.of(x).is(mesh.of(y))) return false;
    const int equal = PyObject_RichCompareBool(placements.of(x).ptr(), placements.of(y).ptr(), Py_EQ);
    if (equal < 0) throw nb::python_error();
    return equal == 1;
}

// The parameters that have a gradient, their gradients, buffers and averages, if each of their states
// holds just these; otherwise None. What has None for its key, no state has. Of DTensors, the shards:
// the wholes then come too. The list operations of Python take twice as long (160 ns a tensor), which
// is a tenth of a step of many small tensors.
nb::object gather(nb::list params, nb::dict state, nb::object buffer, nb::object average,
                  Memory& memory) {
    static const Name grad("grad");
    const auto n = static_cast<Py_ssize_t>(params.size());
    Row kept(n), gradients(n), wholes(n);
    struct Column {
        nb::object key;
        Row row;
        nb::object take() { return key.is_none() ? nb::none() : nb::object(row.take()); }
    };
    Column buffers{buffer, Row(n)}, averages{average, Row(n)};
    const Py_ssize_t keys = !buffer.is_none() + !average.is_none();
    bool any_whole = false;
    PlainGetters getters;
    for (Py_ssize_t i = 0; i < n && i < PyList_GET_SIZE(params.ptr()); ++i) {
        nb::object param = nb::borrow(PyList_GET_ITEM(params.ptr(), i));
        if (Py_TYPE(param.ptr()) == torch.sharded) getters.enter();
        nb::object gradient = grad.of(param);
        if (gradient.is_none()) continue;
        PyObject* held = state_of(param.ptr(), state, memory.place_in_state);
        if (held != nullptr && !PyDict_Check(held)) return nb::none();
        const Py_ssize_t size = held == nullptr ? 0 : PyDict_GET_SIZE(held);
        if (size != keys) return nb::none();
        wholes.put(param);
        const bool whole = !is_plain(param) || Py_TYPE(gradient.ptr()) == torch.sharded;
        if (whole) {
            nb::object p = shard_of(param), g = shard_of(gradient);
            if (!p.is_valid() || !g.is_valid() || !lie_alike(param, gradient)) return nb::none();
            param = std::move(p);
            gradient = std::move(g);
            any_whole = true;
        }
        for (auto* column : {&buffers, &averages}) {
            if (column->key.is_none()) continue;
            PyObject* value = PyDict_GetItemWithError(held, column->key.ptr());
            if (value == nullptr && PyErr_Occurred()) throw nb::python_error();
            if (value == nullptr || value == Py_None) return nb::none();
            nb::object x = whole ? shard_of(value) : nb::borrow(value);
            if (!x.is_valid()) return nb::none();
            column->row.put(std::move(x));
        }
        kept.put(std::move(param));
        gradients.put(std::move(gradient));
    }
    nb::object shown = nb::none();
    if (any_whole) shown = wholes.take();
    return nb::make_tuple(kept.take(), gradients.take(), buffers.take(), averages.take(), shown);
}

// Finds what the module needs of the installed torch.
void set_up(nb::handle tensor, nb::handle parameter, nb::handle increment_version,
            nb::handle get_num_threads, nb::handle norm_of, const std::string& library) {
    const nb::object capsule = tensor.attr("__dlpack_c_exchange_api__");
    auto* api = static_cast<const DLPackExchangeAPI*>(
        PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw nb::python_error();
    if (api->header.version.major != DLPACK_MAJOR_VERSION ||
        api->dltensor_from_py_object_no_sync == nullptr)
        throw nb::import_error("this torch describes its tensors by another version of DLPack");
    torch.dlpack = api;
    torch.tensor = reinterpret_cast<PyTypeObject*>(tensor.ptr());
    torch.parameter = reinterpret_cast<PyTypeObject*>(parameter.ptr());
    torch.is_neg = nb::object(tensor.attr("is_neg")).release().ptr();
    torch.increment_version = nb::borrow(increment_version);
    torch.get_num_threads = nb::borrow(get_num_threads);
    torch.norm_of = nb::borrow(norm_of);
    const Team team = openmp_team_of(library.c_str());
    torch.team = team != nullptr ? team : serial_team;
    torch.kernels = runnable_kernels().front();
}

}  // namespace
}  // namespace sgdm

NB_MODULE(_native, module) {
    using namespace sgdm;
    nb::set_leak_warnings(false);  // an optimizer may live as long as Python does
    module.doc() = "The native engine: sgdm.engines.native is its Python side.";

    module.def("set_up", &set_up, nb::arg("tensor"), nb::arg("parameter"),
               nb::arg("increment_version"), nb::arg("get_num_threads"), nb::arg("norm_of"),
               nb::arg("library"));
    module.def(
        "know_sharded",
        [](nb::handle type, nb::handle plain_getters) {
            torch.sharded = reinterpret_cast<PyTypeObject*>(type.inc_ref().ptr());
            torch.local_tensor = Slot(type, "_local_tensor");
            torch.spec = Slot(type, "_spec");
            torch.plain_getters = nb::borrow(plain_getters);
        },
        nb::arg("sharded"), nb::arg("plain_getters"));
    module.def("is_threaded", [] { return torch.team != serial_team; });
    module.def("instruction_sets", [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : runnable_kernels()) names.emplace_back(kernels->name);
        return names;
    });
    module.def("instruction_set", [] { return torch.kernels->name; });
    module.def("use_instruction_set", [](const std::string& name) {
        for (const Kernels* kernels : runnable_kernels()) {
            if (name == kernels->name) {
                torch.kernels = kernels;
                return;
            }
        }
        throw nb::value_error("this processor does not run it");
    });

    nb::class_<Memory>(module, "Memory").def(nb::init<>());

    nb::class_<PreparedStep>(module, "PreparedStep")
        .def("step", &PreparedStep::step, nb::arg("scale"))
        .def("gradient_norm", &PreparedStep::gradient_norm)
        .def("bare_pass", &PreparedStep::bare_pass, nb::arg("reads_before"));

    // The step, or the reason why it cannot be made.
    module.def(
        "prepare",
        [](nb::list parts, nb::list fresh, Memory& memory) -> nb::object {
            try {
                return nb::cast(new PreparedStep(parts, fresh, memory),
                                nb::rv_policy::take_ownership);
            } catch (const Refusal& refusal) {
                return nb::str(refusal.reason.c_str());
            }
        },
        nb::arg("parts"), nb::arg("fresh"), nb::arg("memory"));

    // The addresses of what is written and of what is read, and what else there is to know of them;
    // or the reason why they cannot be stepped where they are.
    module.def(
        "look",
        [](nb::list written, nb::list read, Memory& memory) -> nb::object {
            try {
                return look(written, read, memory);
            } catch (const Refusal& refusal) {
                return nb::str(refusal.reason.c_str());
            }
        },
        nb::arg("written"), nb::arg("read"), nb::arg("memory"));

    module.def("holds", &holds, nb::arg("group"), nb::arg("names"), nb::arg("values"));
    module.def("gather", &gather, nb::arg("params"), nb::arg("state"), nb::arg("buffer").none(),
               nb::arg("average").none(), nb::arg("memory"));
}
