%% counts.rs evaluates this inside the broker: a listener on loopback that answers the counts of a queue
%% from the queue's own process. Returns the port of the listener; a second evaluation returns the same
%% port.
%%
%% A question is a line: the virtual host and the queue, both percent-encoded, with a space between.
%% The answer is a line: ready, unacked, aside; or "absent"; or "error" and its reason.
case whereis(lapwing_probe) of
  undefined ->
    Asker = self(),
    Counts = fun(Queue) ->
      case amqqueue:get_type(Queue) of
        rabbit_quorum_queue ->
          %% A triple, as newer releases refuse a fun here.
          {ok, {_, Seen}, _} =
            ra:leader_query(amqqueue:get_pid(Queue), {rabbit_fifo, overview, []}),
          %% Not yet confirmed by the queue they are dead-lettered to, or delayed (4.3).
          Aside = maps:get(num_discarded, Seen, 0) + maps:get(num_discard_checked_out, Seen, 0)
            + maps:get(num_delayed_messages, Seen, 0),
          [maps:get(num_ready_messages, Seen), maps:get(num_checked_out, Seen), Aside];
        _ ->
          [{_, Ready}, {_, Unacked}] =
            rabbit_amqqueue:info(Queue, [messages_ready, messages_unacknowledged]),
          [Ready, Unacked, 0]
      end
    end,
    Answer = fun(Line) ->
      Parts = binary:split(string:trim(Line), <<" ">>),
      [VHost, Name] = [uri_string:percent_decode(Part) || Part <- Parts],
      case rabbit_amqqueue:lookup(rabbit_misc:r(VHost, queue, Name)) of
        {ok, Queue} -> io_lib:format("~b ~b ~b~n", Counts(Queue));
        _ -> "absent\n"
      end
    end,
    Serve = fun Serve(Socket) ->
      case gen_tcp:recv(Socket, 0) of
        {ok, Line} ->
          Reply = try Answer(Line)
                  catch Class:Reason -> io_lib:format("error ~0p~n", [{Class, Reason}])
                  end,
          ok = gen_tcp:send(Socket, Reply),
          Serve(Socket);
        _ -> gen_tcp:close(Socket)
      end
    end,
    Accept = fun Accept(Listener) ->
      {ok, Socket} = gen_tcp:accept(Listener),
      Server = spawn(fun() ->
        receive go -> gen_tcp:send(Socket, "lapwing-probe\n"), Serve(Socket) end
      end),
      ok = gen_tcp:controlling_process(Socket, Server),
      Server ! go,
      Accept(Listener)
    end,
    spawn(fun() ->
      register(lapwing_probe, self()),
      Loopback = {127, 0, 0, 1},
      {ok, Listener} =
        gen_tcp:listen(0, [binary, {packet, line}, {active, false}, {ip, Loopback}]),
      {ok, Port} = inet:port(Listener),
      application:set_env(rabbit, lapwing_probe_port, Port),
      Asker ! {lapwing_probe, Port},
      Accept(Listener)
    end),
    receive {lapwing_probe, Listening} -> Listening after 5000 -> timeout end;
  _ ->
    application:get_env(rabbit, lapwing_probe_port, starting)
end.
