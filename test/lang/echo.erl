#!/usr/bin/env escript
%% SPDX-License-Identifier: Apache-2.0
%% The echo in Erlang: a process of Erlang's for each connection. echo.c says how it is called.
-mode(compile).

main(["serve", Addr, Port]) ->
    {ok, Ip} = inet:parse_address(Addr),
    {ok, L} = gen_tcp:listen(list_to_integer(Port), [binary, {ip, Ip}, {active, false},
						     {reuseaddr, true}, {backlog, 100}]),
    accept(L);
main(["connect", Addr, Port, File, Out, N, Go]) ->
    {ok, Data} = file:read_file(File),
    Self = self(),
    Pids = [spawn_monitor(fun() -> connect(Self, Addr, list_to_integer(Port), Data, Out ++ "." ++ integer_to_list(I), Go) end)
	    || I <- lists:seq(0, list_to_integer(N) - 1)],
    [receive {back, Pid} -> ok; {'DOWN', Ref, process, Pid, Why} -> fail(Why) end || {Pid, Ref} <- Pids],
    io:format("all back~n"),
    [receive {'DOWN', Ref, process, Pid, normal} -> ok; {'DOWN', Ref, process, Pid, Why} -> fail(Why) end
     || {Pid, Ref} <- Pids].

fail(Why) ->
    io:format("~p~n", [Why]),
    halt(1).

accept(L) ->
    {ok, S} = gen_tcp:accept(L),
    Pid = spawn(fun() -> receive yours -> echo(S) end end),
    ok = gen_tcp:controlling_process(S, Pid),
    Pid ! yours,
    accept(L).

echo(S) ->
    case gen_tcp:recv(S, 0) of
	{ok, Data} ->
	    ok = gen_tcp:send(S, Data),
	    echo(S);
	{error, closed} ->
	    gen_tcp:close(S)
    end.

%% What comes back arrives as messages, while another process sends.
connect(Main, Addr, Port, Data, Out, Go) ->
    {ok, Ip} = inet:parse_address(Addr),
    {ok, S} = gen_tcp:connect(Ip, Port, [binary, {active, once}, {exit_on_close, false}]),
    {ok, Save} = file:open(Out, [write, raw, binary]),
    spawn_link(fun() -> send(S, Data, [1, 100, 5000, 60000]) end),
    ok = back(S, Save, byte_size(Data)),
    ok = file:close(Save),
    Main ! {back, self()},
    wait_go(Go),
    ok = gen_tcp:shutdown(S, write),
    ok = inet:setopts(S, [{active, once}]),
    receive {tcp_closed, S} -> ok end.

send(S, Data, [Size | Sizes]) when byte_size(Data) > Size ->
    <<Piece:Size/binary, Rest/binary>> = Data,
    ok = gen_tcp:send(S, Piece),
    send(S, Rest, Sizes ++ [Size]);
send(S, Data, _) ->
    ok = gen_tcp:send(S, Data).

back(_, _, 0) ->
    ok;
back(S, Save, Left) ->
    receive
	{tcp, S, Data} ->
	    ok = file:write(Save, Data),
	    Rest = Left - byte_size(Data),
	    Rest > 0 andalso inet:setopts(S, [{active, once}]),
	    back(S, Save, Rest)
    end.

wait_go(Go) ->
    case filelib:is_regular(Go) of
	true -> ok;
	false -> timer:sleep(10), wait_go(Go)
    end.
